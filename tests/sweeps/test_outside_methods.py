"""Methods of a package that wavedp does not know: found, planned, priced, run and tested, no file of ours touched."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins"
ENTRY_POINTS = """
[wavedp.generators]
class_means = class_means_generator:ClassMeans

[wavedp.upscalers]
sharpened = sharpened_upscaler:Sharpened

[wavedp.metrics]
brightness = brightness_metric:Brightness

[wavedp.datasets]
stripes = stripes_dataset:Stripes
"""
# What the package's own author writes: a yaml with the options, and the suites.
YAML = "# The mean of every class, and noise.\nname: class_means\nspread: 0.1\n"
TESTS = """
from wavedp.config import DataConfig, configure
from wavedp.testing.datasets import DatasetSuite
from wavedp.testing.generators import GeneratorSuite
from wavedp.testing.metrics import MetricSuite
from wavedp.testing.upscalers import UpscalerSuite

class TestClassMeans(GeneratorSuite):
    def config(self):
        return configure("generator", "class_means")

class TestSharpened(UpscalerSuite):
    def config(self):
        return configure("upscaler", "sharpened_upscaler:Sharpened")

class TestBrightness(MetricSuite):
    def config(self):
        return configure("metric", "brightness")

    def worse(self):  # shuffled pixels, which the suite would take, are as bright
        images, labels = self.best()
        return images // 2, labels

class TestStripes(DatasetSuite):
    def config(self, tmp_path):
        return DataConfig(name="stripes", size=16, n_records=40)
"""


def example(name):
    """A file of CONTRIBUTING.md, as it is written there."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(rf"```python\n(# my_package/{name}\.py.*?)```", page, re.DOTALL)[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The package as pip would leave it on the path, in a folder of its own."""
    folder = tmp_path_factory.mktemp("lab")
    for file in ("class_means_generator.py", "stripes_dataset.py"):
        shutil.copy(PLUGINS / file, folder)
    (folder / "sharpened_upscaler.py").write_text(example("sharpened"))
    (folder / "brightness_metric.py").write_text(example("brightness"))
    about = folder / "lab_methods-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-methods\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "conf" / "generator").mkdir(parents=True)
    (folder / "conf" / "generator" / "class_means.yaml").write_text(YAML)
    (folder / "test_lab.py").write_text(TESTS)
    return folder


def call(lab, *command, status=0):
    path = os.pathsep.join([str(ROOT), str(lab)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "BROWSER_PATH": "/nonexistent"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=lab, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def sweep(lab, *overrides, status=0):
    data = ["data.name=stripes", "data.size=28", "+sweep=smoke", f"results={lab / 'results'}", f"store={lab / 'store'}"]
    return call(lab, "sweeps.run", *overrides, *data, status=status)


def test_a_plan_prices_one_gaussian_release(lab):
    """By entry point with a yaml of its own, by entry point, and by import path: one method, one release."""
    by_yaml = ["--config-dir", str(lab / "conf"), "generator=class_means"]
    for generator in (by_yaml, ["generator.name=class_means"], ["generator.name=class_means_generator:ClassMeans"]):
        printed = sweep(lab, *generator, "sweep.grid.epsilon=[2]", "sweep.grid.upscaler=[bicubic]", "dry_run=true")
        assert "private releases: 1 (1 new)" in printed
        assert "all 1 composed: ε = 2 at" in printed

    for axis in (
        "++sweep.grid={epsilon: [2], privacy.steps: [3, 9]}",
        "++sweep.grid={epsilon: [2], generator.spread: [0.1, 0.2]}",
    ):
        printed = sweep(lab, *by_yaml, axis, "dry_run=true")
        assert "4 trials" in printed  # with the two upscalers of smoke
        assert "private releases: 1 (1 new)" in printed  # it takes no steps; its spread is read only when it samples
    refused = sweep(lab, *by_yaml, "privacy.steps=9", "dry_run=true", status=2)
    assert "privacy.steps=9 is not read by generator=class_means" in refused
    refused = sweep(lab, *by_yaml, "generator.sprad=0.2", "dry_run=true", status=2)
    assert "generator.sprad is not a setting: did you mean generator.spread?" in refused
    refused = sweep(lab, "generator.name=class_mean", "dry_run=true", status=2)
    assert "generator='class_mean' is not known: did you mean class_means?" in refused
    refused = sweep(lab, "generator.name=none_such", "dry_run=true", status=2)
    assert re.search(r"use one of .*\bclass_means\b.*, or package\.module:Object", refused)


@pytest.mark.slow
def test_smoke_runs_them_all(lab):
    axes = ["sweep.grid.epsilon=[2]", "sweep.grid.upscaler=[sharpened,'sharpened_upscaler:Sharpened']"]
    sweep(lab, "generator.name=class_means", *axes, "metrics.also=[brightness,prdc]", "study=lab")
    rows = [json.loads(line) for line in (lab / "results/lab/trials.jsonl").read_text().splitlines()]
    ended = {(row["status"], row["generator"], row["upscaler"]) for row in rows}
    assert (len(rows), ended) == (2, {("done", "class_means", "sharpened")})
    assert len({row["keys"]["evaluate"] for row in rows}) == 1  # an entry point and an import path are one method
    names = {name.split("_")[0] for name in rows[0]["metrics"]}
    assert {"fid", "brightness", "precision", "recall"} <= names
    lines = [json.loads(line) for line in (lab / "results/lab/ledger.jsonl").read_text().splitlines()]
    private = [line for line in lines if line["kind"] != "nonprivate"]
    assert [(line["kind"], line["purpose"], line["steps"]) for line in private] == [("gaussian", "class_means", 1)]
    assert 1.9 < private[0]["epsilon"] <= 2
    assert any("mean pixel" in line["purpose"] for line in lines)
    report = (lab / "results/lab/results.md").read_text()
    assert "brightness" in report


@pytest.mark.slow
def test_each_passes_its_conformance_suite(lab):
    printed = call(lab, "pytest", "-q", "-p", "no:cacheprovider", "test_lab.py")
    assert " passed" in printed
    assert "failed" not in printed
