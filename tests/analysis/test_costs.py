"""What a method's trials took."""

import re
from pathlib import Path

import pytest
from study_folder import build

from analysis.compare import compare_data
from analysis.compare_table import markdown
from analysis.costs import cost
from analysis.load import Study, load


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load(build(tmp_path / "study"))


def of(study: Study, upscaler: str):
    return [trial for trial in study.done if trial.upscaler == upscaler]


def test_a_shared_fit_counts_in_each_method_at_what_it_took_where_it_was_made(study: Study) -> None:
    for trial in study.trials:
        trial.seconds.clear()
    made = {"private_fit": 42.0, "coarse_samples": 2.0}
    for trial in of(study, "bicubic"):
        trial.seconds.update(made | {"upscale": 3.0})
    for trial in of(study, "realesrgan_x4plus"):
        trial.seconds.update({"upscale": 8.0})
    first, second = (cost(study, name, of(study, name)) for name in ("bicubic", "realesrgan_x4plus"))
    assert first.seconds == {"public training": None, "private fit": 42.0, "samples": 5.0}
    assert second.seconds == {"public training": None, "private fit": 42.0, "samples": 10.0}
    assert first.releases == second.releases == len({t.keys["private_fit"] for t in study.done if t.epsilon < 1e9})


def test_the_largest_memory_of_any_stage_but_the_metrics(study: Study) -> None:
    (trial, other, *_) = of(study, "bicubic")
    trial.memory.update({"private_fit": {"host": 900, "gpu": 40}, "evaluate": {"host": 9000}})
    other.memory.update({"upscale": {"host": 1000}})
    assert cost(study, "bicubic", of(study, "bicubic")).memory == {"gpu": 40, "host": 1000}


def test_the_page_says_what_is_not_known(study: Study) -> None:
    page = markdown(compare_data([study]))
    table = page.split("### What it took")[1]
    assert re.search(r"\| method +\| public training, s \| private fit, s \| samples, s \| releases \|", table)
    assert "–: not made by this study" in table
    assert "MiB" not in table  # a study older than the record of memory
