"""CONTRIBUTING.md's examples, as they stand there: they pass their suites, and a sweep runs them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = {code.split(":")[0][2:]: code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)}
SMALL = ["sweep.grid.epsilon=[2]", "data.n_records=64", "public.n_records=64", "privacy.steps=3"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with the page's files."""
    folder = tmp_path_factory.mktemp("lab")
    for name, code in BLOCKS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code, encoding="utf-8")
    return folder


def call(lab, *command):
    path = os.pathsep.join([str(ROOT), str(lab)])
    here = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "BROWSER_PATH": "/nonexistent"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=lab, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_each_example_is_short():
    kinds = ["sharpened", "brightness", "means", "grey", "stripes"]
    assert list(BLOCKS) == [*(f"my_package/{kind}.py" for kind in kinds), "test_mine.py"]
    for name in list(BLOCKS)[:-1]:
        assert len([line for line in BLOCKS[name].splitlines() if line.strip()]) <= 31, name


@pytest.mark.slow
def test_each_passes_its_suite(lab):
    printed = call(lab, "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py")
    assert " passed" in printed
    assert "failed" not in printed


@pytest.mark.slow
@pytest.mark.parametrize("more", ["generator.name=my_package.means:Means", "tokenizer.name=my_package.grey:Grey"])
def test_its_command_takes_them(lab, more):
    """Planned by the command, and run without Ray, which takes less time."""
    (command,) = re.findall(r"wavedp sweep (.*?)\n\n", PAGE, re.DOTALL)
    small = SMALL if "grey" in more else SMALL[:2]
    plan, store = lab / "plan.json", lab / more.partition(".")[0]
    call(lab, "sweeps.run", *shlex.split(command.replace("\\\n", " ")), more, *small, f"plan={plan}")
    call(lab, "wavedp.run", str(plan), "--store", str(store), "--device", "cpu")
    (trial,) = json.loads(plan.read_text())["trials"]
    assert trial["config"]["upscaler"]["name"] == "my_package.sharpened:Sharpened"
    (found,) = store.glob("evaluate/*/metrics.json")
    assert any(name.startswith("brightness") for name in json.loads(found.read_text()))
