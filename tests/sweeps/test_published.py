"""The commands of the published studies still describe the studies that lie in results/: who types one in a fresh clone
goes on in its folder, instead of being told that it holds something else."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from sweeps.overrides import normalised
from sweeps.records import claim_folder
from sweeps.run import _by_field
from sweeps.study import axes_of, identity_of
from sweeps.swept import with_typed_values
from wavedp.config import TrialConfig, sections, trial_of, with_absolute_paths
from wavedp.jsonl import read_jsonl

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent.name for path in ROOT.glob("results/*/study.yaml"))
# Defaults of that time which today have to be said, as README does.
SAID_TODAY = {
    "eps_grid_small": ["preset=small"],
    "eps_grid_2k": ["preset=small", "sampling.n=2000"],
    "eps_grid_detail": ["preset=small"],
    "ceilings_realsr": ["preset=small"],
    "tokenizers": ["privacy.steps=160", "sampling.n=1000", "metrics.precision=bfloat16"],
}


def test_the_headline_study_is_published():
    assert "eps_grid" in STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_a_published_command_goes_on_in_its_folder(name, tmp_path):
    """Even where today's code has other keys, and so other trials, than the published rows."""
    shutil.copytree(ROOT / "results" / name, tmp_path, dirs_exist_ok=True)
    made = yaml.safe_load((tmp_path / "study.yaml").read_text())
    published = read_jsonl(tmp_path / "trials.jsonl")
    overrides = normalised(shlex.split(made["command"])[3:] + SAID_TODAY.get(name, []))
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        values = OmegaConf.to_container(hydra.compose("config", overrides=overrides), resolve=True)
    _by_field(values["sweep"])
    with_typed_values(values["sweep"], overrides, values)
    base = with_absolute_paths({section: values[section] for section in sections(TrialConfig)})
    today = {**made, "identity": identity_of(trial_of(base)), "axes": axes_of(values["sweep"])}
    claim_folder(tmp_path, today, ["a trial of other code"])
    assert published
    assert read_jsonl(tmp_path / "trials.superseded.jsonl")[-len(published) :] == published
