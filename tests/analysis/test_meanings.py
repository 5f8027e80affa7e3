"""What a study says of its metrics is what figures and tables say, even of metrics unknown to this repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import study_folder
import yaml

from analysis.captions import known_sentence, metric_sentence
from analysis.load import Study, load, lower_is_better
from analysis.pareto import pareto_data
from analysis.tables import table
from sweeps.study import describe_study
from wavedp import metrics
from wavedp.config import DataConfig, MetricsConfig, TrialConfig, to_dict
from wavedp.metrics import Given


def saying(meanings: dict) -> Study:
    return Study(Path("s"), {"metrics": meanings}, [], [])


@pytest.mark.parametrize(
    "config",
    [
        MetricsConfig(),
        MetricsConfig(mode="tensorflow", precision="bfloat16", second_network="effnetlite0", reference_samples=None),
        MetricsConfig(mode="pytorch", reference_split="train", downstream="dpimagebench", downstream_steps=0),
        MetricsConfig(downstream="light", floor=False),
    ],
)
def test_new_studies_say_what_older_ones_were_known_to(config: MetricsConfig) -> None:
    study = saying(metrics.described(config))
    sets = Given(config, {"train": 55_000, "test": 10_000}.__getitem__, 60_000).sets
    names = [name for metric, own in metrics.chosen(config) for name in metric.names(own, sets).values()]
    assert len(names) >= 4
    for name in names:
        assert study.meaning(name), name
        assert metric_sentence(study, name) == known_sentence(name)
        assert study.lower_is_better(name) == lower_is_better(name)


def test_the_longest_beginning_counts_and_counts_are_filled_in() -> None:
    study = saying(
        {
            "acc": {"better": "higher", "sentence": "one"},
            "acc_loss": {"better": "lower", "sentence": "a loss of {generated} against {real}"},
        }
    )
    assert not study.lower_is_better("acc_cnn400_2k_test")
    assert study.lower_is_better("acc_loss_1k_test2k")
    assert not study.lower_is_better("acc_losses_1k_test"), "a beginning ends where a word does"
    assert metric_sentence(study, "acc_loss_1k_test2k") == (
        "acc_loss_1k_test2k: a loss of 1k against 2k of the real test images."
    )
    assert metric_sentence(study, "acc_loss_1k_val_train60k") == (
        "acc_loss_1k_val_train60k: a loss of 1k against all real val images."
    )
    assert metric_sentence(study, "acc_loss_of_all") == "acc_loss_of_all: as its name says."
    assert metric_sentence(study, "fid_clean_1k_test") == known_sentence("fid_clean_1k_test")


def test_a_metric_of_another_package_is_drawn_in_its_direction(tmp_path: Path) -> None:
    folder = study_folder.build(tmp_path / "s")
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    for row in rows:
        if row["metrics"]:
            row["metrics"]["sharpness_1k_test2k"] = 1 / row["metrics"]["fid_clean_1k_test2k"]
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert pareto_data(load(folder), "sharpness_1k_test2k").lower_is_better, "of an unknown name"
    meta = yaml.safe_load((folder / "study.yaml").read_text())
    meta["metrics"] = {"sharpness": {"better": "higher", "sentence": "gradients, {generated} generated images"}}
    (folder / "study.yaml").write_text(yaml.safe_dump(meta))
    study = load(folder)
    data = pareto_data(study, "sharpness_1k_test2k")
    assert not data.lower_is_better
    assert "sharpness_1k_test2k: gradients, 1k generated images." in data.caption
    assert "sharpness_1k_test2k ↑" in table(study)
    best = {point.epsilon: point for front in data.fronts for point in front.points if point.nondominated}
    fid = pareto_data(study, "fid_clean_1k_test2k")
    assert set(best) == {point.epsilon for front in fid.fronts for point in front.points if point.nondominated}
    header, _, *rows = table(study, ["fid_clean_1k_test2k", "sharpness_1k_test2k"]).split("\n\n")[0].splitlines()
    columns = [cell.strip() for cell in header.split("|")]
    for row in rows:
        cells = [cell.strip() for cell in row.split("|")]
        fid_bold, own_bold = (cells[columns.index(name)].startswith("**") for name in columns[4:6])
        assert fid_bold == own_bold, row


def test_a_study_writes_down_what_its_metrics_mean() -> None:
    base = to_dict(
        TrialConfig(data=DataConfig("procedural"), public=None, metrics=MetricsConfig(also=("prdc", "spectrum")))
    )
    meta = describe_study({"study": "s", "budget": {}}, base, {"name": "s"}, [], None)
    assert meta["primary_metric"].startswith("fid_clean_1k_test")
    assert {"fid_clean", "kid_clean", "acc_cnn400", "precision_clean", "spectrum"} <= set(meta["metrics"])
    assert meta["metrics"]["precision_clean"]["better"] == "higher"
    assert yaml.safe_load(yaml.safe_dump(meta)) == meta
