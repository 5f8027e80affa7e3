"""The ledger: lines that say what was spent, sums that the accountant confirms, refusals of flattering numbers."""

import json
import math

import pytest

from wavedp.config import PrivacyConfig
from wavedp.errors import UserError
from wavedp.privacy import accounting
from wavedp.privacy import ledger as ledger_module
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.ledger import (
    FIELDS,
    composed_epsilon,
    line_for_fit,
    line_nonprivate,
    main,
    read,
    releases,
    summary,
)

CONFIG = PrivacyConfig(delta=1e-5, max_grad_norm=0.5)
ONE = Mechanism(0.01, 1.0, 1000)
NOW = "2026-11-21T12:00:00+00:00"


def fit_line(mechanism=ONE, *, stage_key="a", trials=("t1",), dataset="d1", config=CONFIG, n=60_000):
    return line_for_fit(
        mechanism,
        config,
        dataset=dataset,
        n_records=n,
        stage_key=stage_key,
        trials=trials,
        purpose="private_fit",
        time=NOW,
    )


def look_line(stage_key="e", trials=("t1",), dataset="d1"):
    return line_nonprivate(
        "fid_reference", dataset=dataset, n_records=10_000, stage_key=stage_key, trials=trials, time=NOW
    )


def test_line_of_a_fit():
    line = fit_line()
    assert tuple(line) == FIELDS
    assert line == {
        "kind": "dp_sgd",
        "purpose": "private_fit",
        "sample_rate": 0.01,
        "noise_multiplier": 1.0,
        "steps": 1000,
        "delta": 1e-5,
        "epsilon": accounting.spent([Mechanism(0.01, 1.0, 1000)], 1e-5),
        "accountant": "pld",
        "relation": "add_or_remove_one",
        "dataset": "d1",
        "n_records": 60_000,
        "max_grad_norm": 0.5,
        "stage_key": "a",
        "trials": ["t1"],
        "time": NOW,
    }


def test_kinds():
    assert fit_line(Mechanism(1.0, 4.0, 1))["kind"] == "gaussian"
    reference = fit_line(Mechanism(0.01, 0.0, 1000), config=PrivacyConfig(epsilon=math.inf))
    assert (reference["kind"], reference["epsilon"], reference["steps"]) == ("nonprivate", "inf", 1000)
    look = look_line()
    assert tuple(look) == FIELDS
    assert (look["kind"], look["epsilon"], look["steps"], look["delta"]) == ("nonprivate", "inf", None, None)
    assert fit_line(config=PrivacyConfig())["delta"] == pytest.approx(1 / (60_000 * math.log(60_000)))


def test_lines_are_strict_json_and_stamped_in_utc():
    line = line_nonprivate("fid_reference", dataset="d", n_records=1, stage_key="k", trials=[])
    assert line["time"].endswith("+00:00")
    for item in (line, fit_line(), fit_line(Mechanism(0.5, 0.0, 1))):
        assert json.loads(json.dumps(item, allow_nan=False)) == item


def test_composition_of_forty_releases_is_their_price_and_not_their_sum():
    lines = [fit_line(stage_key=str(number)) for number in range(40)] + [look_line()]
    (epsilon,) = composed_epsilon(lines).values()
    assert epsilon == accounting.compose([Mechanism(0.01, 1.0, 1000)] * 40, 1e-5)
    assert lines[0]["epsilon"] * math.sqrt(40) < epsilon < lines[0]["epsilon"] * 40


def test_datasets_are_apart_and_looks_are_in_no_sum():
    epsilon = composed_epsilon([fit_line(), fit_line(dataset="d2", stage_key="b"), look_line(dataset="d3")])
    assert epsilon == {"d1": fit_line()["epsilon"], "d2": fit_line()["epsilon"]}


def test_one_stage_key_is_one_release():
    lines = [fit_line(trials=["t1", "t2"]), fit_line(stage_key="b", trials=["t3"]), fit_line(trials=["t2", "t4"])]
    first, second = releases(lines)
    assert (first["trials"], second["trials"]) == (["t1", "t2", "t4"], ["t3"])
    assert lines[0]["trials"] == ["t1", "t2"]
    assert composed_epsilon(lines) == composed_epsilon(lines[:2]) != composed_epsilon(lines[:1])
    with pytest.raises(UserError, match=r"noise_multiplier=1.0 and with 2.0"):
        releases([fit_line(), fit_line(Mechanism(0.01, 2.0, 1000))])


def test_different_deltas_are_refused_until_one_is_given():
    other = PrivacyConfig(delta=1e-6)
    lines = [fit_line(), fit_line(stage_key="b", config=other)]
    with pytest.raises(UserError, match=r"delta = 1e-06, 1e-05: .*--delta"):
        composed_epsilon(lines)
    assert composed_epsilon(lines, 1e-6)["d1"] > composed_epsilon(lines, 1e-5)["d1"]
    assert composed_epsilon([fit_line(), fit_line(stage_key="b", config=other, dataset="d2")])


def test_summary_states_everything():
    lines = [
        fit_line(),
        fit_line(Mechanism(0.01, 2.0, 1000), stage_key="b", trials=["t1", "t2"]),
        look_line(),
        look_line("f"),
    ]
    text = summary(lines)
    total = composed_epsilon(lines)["d1"]
    assert "2 private releases (PLD, add_or_remove_one)" in text
    assert f"{lines[0]['epsilon']:.4g}" in text
    assert f"All 2 releases of dataset d1 composed: epsilon = {total:.4g} at delta = 1e-05." in text
    assert "Best-of-K selection: refused." in text
    assert "2 looks without noise" in text
    assert text.count("fid_reference") == 2
    assert "at delta = 1e-06." in summary(lines, 1e-6)


def test_summary_without_private_lines():
    assert summary([]) == "0 private releases (PLD, add_or_remove_one)\n0 looks without noise, in no epsilon above"


def written(path, rows):
    path.write_text("".join(rows))
    return path


def test_reading(tmp_path):
    rows = [json.dumps(line) + "\n" for line in (fit_line(), look_line(), fit_line(stage_key="b"))]
    path = tmp_path / "ledger.jsonl"
    assert read(written(path, rows)) == [json.loads(row) for row in rows]
    assert len(read(written(path, [*rows[:2], rows[2].rstrip("\n")]))) == 3
    with pytest.warns(UserWarning, match="line 3 was cut off"):
        assert read(written(path, [*rows[:2], rows[2][:50]])) == [json.loads(row) for row in rows[:2]]
    with pytest.raises(UserError, match="line 2 is broken"):
        read(written(path, [rows[0], rows[1][:50] + "\n", rows[2]]))
    with pytest.raises(UserError, match="line 2 is broken"):
        read(written(path, [rows[0], rows[1][:50] + rows[2], rows[2][:20]]))
    with pytest.raises(UserError, match=r"line 1 is broken .*'kind' is missing"):
        read(written(path, ["{}\n", rows[0]]))
    with pytest.raises(UserError, match="no ledger at"):
        read(tmp_path / "nothing.jsonl")


def test_command(tmp_path, capsys):
    written(tmp_path / "ledger.jsonl", [json.dumps(fit_line()) + "\n"])
    assert main([str(tmp_path)]) == 0
    assert "composed: epsilon = " in capsys.readouterr().out
    assert main([str(tmp_path), "--delta", "1e-7"]) == 0
    assert "at delta = 1e-07" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "There is no ledger" in capsys.readouterr().err


def test_two_accountants_agree_within_two_percent():
    line = fit_line(Mechanism(512 / 60_000, 0.9, 80), n=60_000)
    printed = ledger_module.cross_check([line, line])
    pld, prv = (float(printed.split(f" ({name})")[0].split()[-1]) for name in ("PLD", "PRV"))
    assert printed.count("\n") == 0  # one release, however many lines
    assert pld == pytest.approx(line["epsilon"], rel=1e-3)
    assert prv == pytest.approx(pld, rel=0.02)
