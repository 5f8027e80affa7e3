"""The core runs without any extra, and what needs one says which package and how to install it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wavedp import extras
from wavedp.errors import UserError

ROOT = Path(__file__).parents[2]
MODULES = [module for modules in extras.EXTRAS.values() for module in modules]
BLOCKED = f"import sys, runpy\nsys.modules |= dict.fromkeys({MODULES!r})\n"
TRIAL = """
import numpy as np
import wavedp

random = np.random.default_rng(0)
data = wavedp.data.from_arrays(random.random((64, 16, 16)), random.integers(0, 2, 64))
public = wavedp.DataConfig(name="procedural", size=16, n_records=32)
metrics = wavedp.MetricsConfig(fid_samples=4, reference_samples=4, downstream_steps=0, kid=False, floor=False)
generator, sampling = "dp_merf", wavedp.SamplingConfig(n=8)
trial = dict(data=data, public=public, generator=generator, sampling=sampling, metrics=metrics)
"""


def blocked(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run code where no package of an extra can be imported."""
    here = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=folder, env=here, capture_output=True, text=True)


def command(module: str, *arguments: str) -> str:
    return f"sys.argv = {[module, *arguments]!r}\nrunpy.run_module({module!r}, run_name='__main__')"


def test_pyproject_has_the_same_extras():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    names = lambda wanted: {re.match(r"[\w-]+", each)[0] for each in wanted}  # noqa: E731
    groups = project["optional-dependencies"]
    for extra, modules in extras.EXTRAS.items():
        packages = {extras.PACKAGE.get(module, module.replace("_", "-")) for module in modules}
        assert packages <= names(groups[extra])
        assert not packages & names(project["dependencies"])
    assert set(re.findall(r"\w+", groups["all"][0].partition("[")[2])) == set(extras.EXTRAS)
    assert "wavedp[all]" in groups["dev"]


@pytest.mark.slow
def test_a_trial_from_arrays_to_fid_needs_no_extra(tmp_path):
    done = blocked(f"{TRIAL}print(wavedp.run(wavedp.TrialConfig(**trial, upscaler='bicubic')).metrics)", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fid_clean_4_test4" in done.stdout


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (command("sweeps.run", "+sweep=smoke"), "hydra-core: pip install 'wavedp[ray]'"),
        (command("sweeps.cli", "sweep", "--help"), "hydra-core: pip install 'wavedp[ray]'"),
        (command("analysis.figures", str(ROOT / "results" / "eps_grid")), "plotly: pip install 'wavedp[figures]'"),
        (command("analysis.blur_figures", "."), "plotly: pip install 'wavedp[figures]'"),
        (command("wavedp.reports.agreement", "a", "b"), "clean-fid: pip install 'wavedp[metrics]'"),
    ],
)
def test_a_command_says_which_extra_it_lacks(code, said, tmp_path):
    done = blocked(code, tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(rf"Error: This \w+ needs the package {re.escape(said)}\.\n", done.stderr)


def test_the_other_commands_need_no_extra(tmp_path):
    study = str(ROOT / "results" / "eps_grid")
    for arguments in ([], ["report", study, "-o", "page.html"], ["ledger", study], ["run", "--help"]):
        done = blocked(command("sweeps.cli", *arguments), tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("upscaler='realsr_df2k_x4'", "pip install 'wavedp[upscalers]'"),
        (
            "upscaler=wavedp.configure('upscaler', 'spandrel', path=__file__)",
            "spandrel: pip install 'wavedp[upscalers]'",
        ),
        ("upscaler='bicubic', generator='dp_mepf'", "pip install 'wavedp[perceptual]'"),
    ],
)
def test_a_trial_says_which_extra_it_lacks_before_any_work(change, said, tmp_path):
    code = f"__file__ = {__file__!r}{TRIAL}wavedp.run(wavedp.TrialConfig(**trial | dict({change})))"
    done = blocked(code, tmp_path)
    assert "UserError: " in done.stderr.splitlines()[-1]
    assert said in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("**/private_fit/*"))


@pytest.mark.parametrize("module", [*MODULES, "no_such_module"])
def test_the_sentence(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "no_such_module":
        assert extras.of_import(ModuleNotFoundError(name=module)) is None
        return
    with pytest.raises(UserError, match=r"^x=1 needs the package [\w-]+: pip install 'wavedp\[\w+\]', or use x=2\.$"):
        extras.require("x=1", "json", module, instead="use x=2")
