"""Published numbers: what the files hold, and that a file of any other form is refused in one sentence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from analysis.literature import PUBLISHED, Result, papers, read_paper, results
from wavedp.errors import UserError

GOOD = {
    "name": "P",
    "paper": "A paper",
    "repository": None,
    "evidence": "paper",
    "notes": [],
    "tables": [
        {
            "dataset": "mnist",
            "resolution": 28,
            "metric": "acc",
            "unit": "percent",
            "protocol": {
                "split": "official",
                "delta": 1e-5,
                "accountant": "rdp",
                "relation": None,
                "price": "one release",
                "classifiers": "one",
                "seeds": 1,
            },
            "source": "Table 1",
            "caveats": ["One."],
            "methods": {"M": {1: 85.4, 10: 90.0}},
            "doubts": [{"method": "M", "epsilon": 1, "says": "odd"}],
        }
    ],
}


@pytest.fixture(scope="module")
def every() -> list[Result]:
    return results(papers())


def found(every: list[Result], **asked: object) -> dict[tuple[str, float], float]:
    rows = [row for row in every if all(getattr(row, name) == value for name, value in asked.items())]
    return {(row.method, row.epsilon): row.value for row in rows}


def write(folder: Path, content: object) -> Path:
    path = folder / "p.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


# --- the files


def test_every_file_is_read(every: list[Result]) -> None:
    assert {row.paper for row in every} == {
        "DPImageBench", "FETA-Pro", "DP-SAPF", "RPGen", "DPDM", "PE", "Digests", "Audits",
    }  # fmt: skip
    assert len(every) == 356  # counted on 2026-11-27; a number that is lost or added changes it
    assert {row.name for row in papers()} - {row.paper for row in every} == {"Statements"}
    assert len(list(PUBLISHED.glob("*.yaml"))) == len(papers()) == 9


def test_every_number_says_where_it_is_from_and_how_it_was_made(every: list[Result]) -> None:
    for row in every:
        assert len(row.source) > 20
        assert row.protocol.price == "one release"
        assert not row.metric.startswith("acc") or 0 < row.value <= 1
    assert {row.protocol.seeds for row in every if row.paper in ("DPImageBench", "FETA-Pro")} == {1}
    assert all("digest" in row.source for row in every if row.evidence == "digest")


def test_delta_is_what_the_benchmark_sets_it_to(every: list[Result]) -> None:
    """1 / (N ln N) of its private records, whatever its configuration says."""
    for dataset, n in {"mnist": 55_000, "fashion_mnist": 55_000, "cifar10": 45_000, "celeba": 145_064}.items():
        (delta,) = {row.protocol.delta for row in every if row.paper == "DPImageBench" and row.dataset == dataset}
        assert delta == pytest.approx(1 / (n * math.log(n)), rel=1e-3)


@pytest.mark.parametrize(
    ("asked", "method", "expected"),
    [
        ({"dataset": "fashion_mnist", "metric": "fid_pytorch_50k_train"}, "PrivImage", {1: 12.1, 10: 5.3}),
        ({"dataset": "celeba", "metric": "fid_pytorch_50k_train"}, "GS-WGAN", {10: 290.0}),
        ({"dataset": "cifar10", "metric": "acc_dpimagebench_60k_test"}, "DP-LoRA", {1: 0.646, 10: 0.772}),
        ({"dataset": "mnist", "metric": "acc_dpimagebench_60k_test"}, "DP-NTK", {1: 0.5, 10: 0.913}),
        ({"dataset": "cifar10", "metric": "fid", "paper": "DP-SAPF"}, "DP-SAPF", {0.2: 33.8, 20: 25.9}),
        ({"dataset": "celeba", "resolution": 64, "paper": "RPGen"}, "RPGen", {1: 43.5, 5: 39.3, 10: 37.1}),
        ({"dataset": "cifar10", "paper": "PE"}, "PE", {0.67: 7.9}),
        ({"dataset": "cifar10", "paper": "DPImageBench", "metric": "fid_pytorch_50k_train"}, "PE-SD, 79M", {10: 7.3}),
        ({"dataset": "cifar10", "paper": "Audits"}, "mislabelled canaries", {68.51: 0.418, math.inf: 5.48}),
    ],
)
def test_numbers_are_those_in_print(every: list[Result], asked: dict, method: str, expected: dict) -> None:
    rows = found(every, **asked)
    for epsilon, value in expected.items():
        assert rows[method, epsilon] == value


def test_both_numbers_of_dpdm_say_that_there_are_two(every: list[Result]) -> None:
    rows = [
        row
        for row in every
        if (row.method, row.epsilon, row.dataset) == ("DPDM", 1, "fashion_mnist") and row.metric.startswith("fid")
    ]
    assert {row.paper: row.value for row in rows} == {"DPImageBench": 28.8, "FETA-Pro": 53.5}
    for row in rows:
        assert any("28.8 and 53.5 are both in print" in caveat for caveat in row.caveats)


def test_the_maximum_of_three_classifiers_is_not_their_mean(every: list[Result]) -> None:
    rows = {
        (row.method, row.dataset, row.epsilon, row.protocol.classifiers): row
        for row in every
        if row.metric == "acc_dpimagebench_60k_test" and row.protocol.classifiers
    }
    means = [key for key in rows if key[3] == "mean of three"]
    assert len(means) == 14
    for method, dataset, epsilon, _ in means:
        best = rows[method, dataset, epsilon, "maximum of three"]
        assert best.value > rows[method, dataset, epsilon, "mean of three"].value
    maximum = next(row for row in rows.values() if row.paper == "DPImageBench" and "README" in row.source)
    assert "maximum" in maximum.caveats[0]


# --- the form of a file


def test_a_good_file(tmp_path: Path) -> None:
    (one, other) = results([read_paper(write(tmp_path, GOOD))])
    assert (one.value, one.epsilon, one.protocol.delta) == (0.854, 1.0, 1e-5)  # not 0.8540000000000001
    assert (one.caveats, other.caveats) == (("One.", "odd"), ("One.",))


REMOVED = object()


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("nam",), "x", "the file has the unknown field 'nam' (did you mean name?)"),
        (("paper",), REMOVED, "the file has no paper"),
        (("evidence",), "rumour", "evidence is 'rumour', not one of paper, repository"),
        (("tables",), {}, "tables is {}, not a list"),
        (("tables", 0), "text", "tables[0] is 'text', not a mapping"),
        (("tables", 0, "split"), "x", "tables[0] has the unknown field 'split'"),
        (("tables", 0, "source"), " ", "tables[0].source holds ' ', not a text"),
        (("tables", 0, "caveats"), [5], "tables[0].caveats holds 5, not a text"),  # [5,000 samples] in YAML
        (("tables", 0, "resolution"), "28", "tables[0].resolution is '28'"),
        (("tables", 0, "unit"), "per mille", "not one of share, percent"),
        (("tables", 0, "ablation"), 1, "tables[0].ablation is 1, not one of False, True"),
        (("tables", 0, "protocol", "delta"), REMOVED, "tables[0].protocol has no delta"),
        (("tables", 0, "protocol", "delta"), "1e-5", "tables[0].protocol.delta is '1e-5', not a number"),
        (("tables", 0, "protocol", "delta"), 0, "not between 0 and 1"),
        (("tables", 0, "protocol", "seeds"), True, "tables[0].protocol.seeds is True"),
        (("tables", 0, "protocol", "price"), "free", "not one of one release, whole study"),
        (("tables", 0, "protocol", "classifiers"), "best", "not one of one, mean of three, maximum of three"),
        (("tables", 0, "metric"), "fid", "classifiers is 'one', and fid is no accuracy"),
        (("tables", 0, "methods"), {}, "tables[0].methods is empty"),
        (("tables", 0, "methods"), {"M": {}}, "tables[0].methods.M is empty"),
        (("tables", 0, "methods"), {"M": {1: "85.4"}}, "tables[0].methods.M at ε = 1 is '85.4', not a number"),
        (("tables", 0, "methods"), {"M": {1: True}}, "is True, not a number"),
        (("tables", 0, "methods"), {"M": {"one": 85.4}}, "an ε of tables[0].methods.M is 'one', not a number"),
        (("tables", 0, "methods"), {"M": {-1: 85.4}}, "has ε = -1, which is negative"),
        (("tables", 0, "methods"), {"M": {1: math.nan}}, "at ε = 1 is nan, which no acc can be"),
        (("tables", 0, "methods"), {"M": {1: 854.0}}, "at ε = 1 is 854.0, which no acc can be"),
        (("tables", 0, "methods"), {"M": {1: -1.0}}, "at ε = 1 is -1.0, which no acc can be"),
        (("tables", 0, "methods"), {1: {1: 85.4}}, "tables[0].methods holds 1, not a text"),
        (("tables", 0, "doubts", 0, "epsilon"), 3, "is about M at ε = 3, which the table does not have"),
        (("tables", 0, "doubts", 0, "method"), "N", "is about N at ε = 1, which the table does not have"),
    ],
)
def test_any_other_form_is_refused_in_one_sentence(tmp_path: Path, place: tuple, value: object, reason: str) -> None:
    content = yaml.safe_load(yaml.safe_dump(GOOD))
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    if value is REMOVED:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_paper(path)
    assert str(error.value).startswith(f"{path} can't be read, for ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name: [", "in line 1"),
        (b"name: \xff", "it is no UTF-8"),
        (b"", "the file is None, not a mapping"),
        (b"name: P\nname: Q\n", "'name' occurs twice in line 2"),
        (b"a: {DPDM: {1: 28.8, 1: 53.5}}\n", "1 occurs twice in line 1"),
        (b"a: &b {c: 1}\nd: {<<: *b, <<: *b}\n", "'<<' occurs twice"),
    ],
)
def test_what_is_no_yaml_is_refused_in_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        papers(tmp_path)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    text = yaml.safe_dump(GOOD, sort_keys=False) + "- &t {x: 1}\n"
    path = tmp_path / "p.yaml"
    path.write_text(
        text.replace("tables:\n-", "tables:\n- &first\n ").replace("- &t {x: 1}\n", "- {<<: *first, source: B}\n")
    )
    assert [table.source for table in read_paper(path).tables] == ["Table 1", "B"]
