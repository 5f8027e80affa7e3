"""Which results may share an axis, and the words that say why others may not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from study_folder import DELTA, build

from analysis.comparable import (
    NAMES,
    WHY,
    Conditions,
    differences,
    family,
    of_study,
    of_table,
    published,
    published_sentences,
)
from analysis.literature import read_paper
from analysis.load import Study, load

RESULTS = Path(__file__).parents[2] / "results"
FID, ACC = "fid_clean_1k_test2k", "acc_cnn400_2k_test"
OURS = {
    "split": "official",
    "delta": DELTA,
    "accountant": "pld",
    "relation": "add_or_remove_one",
    "price": "one release",
    "classifiers": None,
    "seeds": 3,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load(build(tmp_path_factory.mktemp("results") / "eps_grid"))


def paper(folder: Path, *tables: dict, name: str = "P") -> Path:
    """A file of tables that differ from a study's own conditions as these do; `protocol` is merged."""
    usual = {"dataset": "fashion_mnist", "resolution": 28, "metric": FID, "source": "s", "caveats": []}
    made = [
        {**usual, "methods": {"M": {1: 2.0}}, **table, "protocol": OURS | table.get("protocol", {})} for table in tables
    ]
    content = {"name": name, "paper": "p", "repository": None, "evidence": "paper", "notes": [], "tables": made}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_same_protocol_has_no_difference(study: Study, tmp_path: Path) -> None:
    paper(tmp_path, {})
    (found,) = published(study, FID, tmp_path)
    assert found.differences == []
    assert found.comparable
    assert published_sentences([found]) == ["P (p: s): same protocol."]


@pytest.mark.parametrize(
    ("change", "name", "theirs"),
    [
        ({"metric": "fid_pytorch_1k_test2k"}, "measured by", "pytorch-fid's resizing"),
        ({"metric": "fid_clean-bf16_1k_test2k"}, "measured by", "clean-fid's resizing in bfloat16"),
        ({"metric": "fid_unstated_1k_test2k"}, "measured by", "not stated"),
        ({"metric": "fid_clean_50k_test2k"}, "generated", "50k"),
        ({"metric": "fid_clean_1k_train2k"}, "reference", "2k of train"),
        ({"metric": "fid_clean_1k_test"}, "reference", "all of test"),
        ({"resolution": 32}, "resolution", "32×32"),
        ({"resolution": None}, "resolution", "not stated"),
        ({"protocol": {"split": "dpimagebench"}}, "split", "dpimagebench"),
        ({"protocol": {"delta": 1e-5}}, "δ", "1e-5"),
        ({"protocol": {"delta": None}}, "δ", "not stated"),
        ({"protocol": {"accountant": "rdp"}}, "accountant", "rdp"),
        ({"protocol": {"relation": "replace_one"}}, "neighbours", "replace one"),
        ({"protocol": {"relation": None}}, "neighbours", "not stated"),
        ({"protocol": {"price": "whole study"}}, "ε", "whole study"),
    ],
)
def test_every_condition_is_compared(study: Study, tmp_path: Path, change: dict, name: str, theirs: str) -> None:
    (table,) = read_paper(paper(tmp_path, change)).tables
    (difference,) = differences(of_table(table), of_study(study, FID))
    assert (difference.name, difference.theirs) == (name, theirs)
    assert difference.short == f"{name} {theirs} (here {difference.here})"
    assert difference.sentence == f"{name} {theirs} against {difference.here} ({WHY[name]})"
    (found,) = published(study, FID, tmp_path)
    assert found.differences == [difference.short]
    assert not found.comparable


def test_each_condition_has_a_reason() -> None:
    names = {NAMES.get(field.name, field.name) for field in dataclasses.fields(Conditions)}
    assert names == set(WHY)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ("acc_dpimagebench_2k_test", "maximum of three", "classifiers maximum of three (here mean of three)"),
        ("acc_dpimagebench_2k_test", "mean of three", None),
        ("acc_dpimagebench_2k_test", None, "classifiers not stated (here mean of three)"),
        ("acc_dpimagebench-wrn_2k_test", "one", None),
        ("acc_dpimagebench-wrn_2k_test", "mean of three", "classifiers mean of three (here one)"),
        (ACC, "maximum of three", "classifiers maximum of three (here one)"),
    ],
)
def test_the_best_of_classifiers_is_not_their_mean(
    study: Study, tmp_path: Path, ours: str, theirs: str | None, reason: str | None
) -> None:
    trials = [dataclasses.replace(trial, metrics={ours: 0.5}) for trial in study.done]
    here = of_study(dataclasses.replace(study, trials=trials), ours)
    change = {"metric": ours, "methods": {"M": {1: 0.5}}, "protocol": {"classifiers": theirs}}
    (table,) = read_paper(paper(tmp_path, change)).tables
    assert [each.short for each in differences(of_table(table), here)] == ([reason] if reason else [])


def test_what_neither_states_is_not_the_same(tmp_path: Path) -> None:
    (table,) = read_paper(paper(tmp_path, {"protocol": {"delta": None}})).tables
    assert [each.short for each in differences(of_table(table), of_table(table))] == ["δ not stated (here not stated)"]


def test_delta_may_differ_by_rounding_only(study: Study) -> None:
    here = of_study(study, FID)
    for factor, same in ((1.005, True), (1.1, False), (1 / 1.1, False)):
        trials = [dataclasses.replace(trial, delta=DELTA * factor) for trial in study.done]
        there = of_study(dataclasses.replace(study, trials=trials), FID)
        assert (not differences(there, here)) is same
        assert (not differences(here, there)) is same


def test_one_of_two_deltas_is_not_enough(study: Study) -> None:
    here = of_study(study, FID)
    mixed = [dataclasses.replace(t, delta=DELTA if i % 2 else 1e-5) for i, t in enumerate(study.done)]
    (difference,) = differences(of_study(dataclasses.replace(study, trials=mixed), FID), here)
    assert difference.short == "δ 1.5e-6, 1e-5 (here 1.5e-6)"
    (difference,) = differences(here, of_study(dataclasses.replace(study, trials=mixed), FID))
    assert difference.short == "δ 1.5e-6 (here 1.5e-6, 1e-5)"


def test_a_study_without_a_private_release_has_no_epsilon_to_differ_in(study: Study) -> None:
    public = dataclasses.replace(study, ledger=[line for line in study.ledger if line["kind"] == "nonprivate"])
    assert differences(of_study(public, FID), of_study(study, FID)) == []
    assert not of_study(public, FID).delta


@pytest.mark.parametrize(
    ("data", "name", "theirs"),
    [
        ({"name": "mnist"}, "data", "mnist"),
        ({"limit": 1000}, "data", "fashion_mnist, 1,000 records"),
        ({"path": "/mine"}, "data", "fashion_mnist, /mine"),
        ({"size": 32}, "resolution", "32×32"),
        ({"split": "dpimagebench"}, "split", "dpimagebench"),
    ],
)
def test_two_studies_differ_in_their_images(study: Study, data: dict, name: str, theirs: str) -> None:
    bare = dataclasses.replace(study, meta=study.meta | {"config": {"data": study.meta["config"]["data"]}})
    other = {"data": study.meta["config"]["data"] | data}
    trials = [dataclasses.replace(trial, axes={"privacy.epsilon": 1.0}, settings=other) for trial in study.done]
    changed = dataclasses.replace(study, trials=trials, meta=study.meta | {"config": other})
    (difference,) = differences(of_study(changed, FID), of_study(bare, FID))
    assert (difference.name, difference.theirs) == (name, theirs)


def test_committed_studies() -> None:
    grid, small, public = (load(RESULTS / name) for name in ("eps_grid", "eps_grid_small", "public_data"))
    assert differences(of_study(grid, FID), of_study(small, FID)) == []
    (precision,) = differences(of_study(public, "fid_clean-bf16_1k_test2k"), of_study(grid, FID))
    assert precision.name == "measured by"
    names = {each.name for each in differences(of_study(grid, "kid_clean_1k_test2k"), of_study(grid, FID))}
    assert names == {"metric"}


def test_families_are_first_words() -> None:
    assert [family(name) for name in ("fid_clean_1k_test", "acc_dpimagebench-wrn_1k_test", "fid")] == [
        "fid",
        "acc",
        "fid",
    ]


# --- published numbers beside a study's


def test_another_family_or_data_set_is_left_out(study: Study, tmp_path: Path) -> None:
    paper(tmp_path, {})
    assert published(study, "kid_clean_1k_test2k", tmp_path) == []
    elsewhere = dataclasses.replace(study, meta=study.meta | {"config": {"data": {"name": "cifar10"}}})
    assert published(elsewhere, FID, tmp_path) == []


def test_ablations_are_left_out(study: Study, tmp_path: Path) -> None:
    paper(tmp_path, {}, {"methods": {"M, smaller": {1: 3.0}}, "ablation": True})
    (found,) = published(study, FID, tmp_path)
    assert set(found.methods) == {"M"}


def test_tables_of_one_source_are_one_unless_they_contradict_each_other(study: Study, tmp_path: Path) -> None:
    doubts = [{"method": "N", "epsilon": 1, "says": "the first table has 5"}]
    paper(
        tmp_path,
        {"methods": {"M": {1: 2.0, 10: 1.0}, "N": {1: 5.0}}, "caveats": ["Old."]},
        {"methods": {"M": {0.2: 9.0, 1: 2.0}, "N": {1: 6.0}, "O": {1: 7.0}}, "source": "t", "doubts": doubts},
    )
    paper(tmp_path, {"methods": {"M": {1: 2.0}}}, name="Q")
    one, other, elsewhere = published(study, FID, tmp_path)
    assert one.methods == {"M": {0.2: 9.0, 1.0: 2.0, 10.0: 1.0}, "N": {1.0: 5.0}, "O": {1.0: 7.0}}
    assert list(one.methods["M"]) == [0.2, 1.0, 10.0]
    assert (one.source, other.source) == ("p: s, t", "p: t")
    assert (other.methods, elsewhere.name) == ({"N": {1.0: 6.0}}, "Q")
    sentences = published_sentences([one, other, elsewhere])
    assert sentences[0].count("same protocol") == 1
    assert sentences[1:] == ["P: Old.", "P: N at ε = 1: the first table has 5."]


def test_the_benchmark_is_hollow_beside_a_study_of_ours(study: Study) -> None:
    benchmark = published(study, FID)[0]
    assert benchmark.name == "DPImageBench"
    assert [text.split()[0] for text in benchmark.differences] == [
        "split", "measured", "generated", "reference", "δ", "accountant", "neighbours",
    ]  # fmt: skip
    best = [each for each in published(study, ACC) if each.classifiers == "maximum of three"]
    assert best
    assert all("classifiers maximum of three (here one)" in each.differences for each in best)
