"""What is recorded is what ran: an option of a group axis is what the same command composes to with that option."""

import dataclasses

import hydra
import pytest
from class_means_generator import ClassMeansConfig
from omegaconf import OmegaConf

from sweeps.options import option_loader
from sweeps.overrides import normalised
from sweeps.plan import plan
from sweeps.run import ROOT
from sweeps.study import describe_study
from wavedp.config import TrialConfig, sections, with_absolute_paths
from wavedp.errors import UserError

SMALL = ["data=procedural", "data@public=procedural_public"]


def study(*typed):
    """The configuration that study.yaml records, and the configurations of the trials."""
    overrides = normalised([*typed, *SMALL])
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        values = OmegaConf.to_container(hydra.compose("config", overrides=overrides), resolve=True)
        base = with_absolute_paths({name: values[name] for name in sections(TrialConfig)})
        trials = plan(base, values["sweep"], option_loader(overrides, base))
        recorded = describe_study(values, base, values["sweep"], overrides, trials[0])
    return recorded["config"], [trial.config for trial in trials]


def test_anchors_run_what_a_preset_says():
    recorded, (public, real) = study("+sweep=anchors", "preset=gpu")
    assert (real.generator.name, public.generator.name) == ("real", "public")
    ran = {**dataclasses.asdict(public.generator), "name": "spectral_ar"}
    assert (ran["width"], ran["depth"], ran["pretrain_steps"]) == (256, 6, 2000)
    assert ran == recorded["generator"]


def test_options_of_a_group_keep_a_presets_values():
    recorded, trials = study("+sweep=eps_grid", "preset=gpu", "sweep.grid={epsilon: [10], privacy: [dp_adam, dp_sgd]}")
    assert [trial.privacy.optimizer for trial in trials] == ["adam", "sgd"]
    for trial in trials:
        assert (trial.privacy.batch_size, trial.privacy.steps) == (4096, 200)
        assert {**dataclasses.asdict(trial.privacy), "optimizer": "adam"} == recorded["privacy"]


def test_options_of_a_group_keep_what_was_typed_and_a_sweep_files_values():
    typed = ["+sweep=blur_schedules", "privacy.steps=7", "sweep.grid={blur: [log], privacy: [dp_adam]}"]
    recorded, trials = study(*typed)
    assert {(trial.privacy.steps, trial.privacy.grad_sample_mode) for trial in trials} == {(7, "bookkeeping")}
    assert recorded["privacy"]["steps"] == 7


def test_a_method_without_a_yaml_is_the_same_alone_and_as_an_axis():
    """What was typed holds for it; the file of the default generator has no say in it."""
    own = "class_means_generator:ClassMeans"
    _, (as_axis,) = study("+sweep=eps_grid", f"sweep.grid={{epsilon: [10], generator: ['{own}']}}")
    _, (alone,) = study("+sweep=eps_grid", "sweep.grid.epsilon=[10]", f"generator={own}")
    assert as_axis.generator.spread == ClassMeansConfig().spread
    assert as_axis == alone


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"sweep axis upscaler=bycubic is not an option: did you mean bicubic\?"):
        study("+sweep=eps_grid", "sweep.grid.upscaler=[bycubic]")
