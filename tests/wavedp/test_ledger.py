"""The ledger: lines that say what was spent, sums that the accountant confirms, refusals of flattering numbers."""

import json
import math

import pytest
import yaml

from wavedp.config import PrivacyConfig
from wavedp.errors import UserError
from wavedp.privacy import accounting
from wavedp.privacy import ledger as ledger_module
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.ledger import (
    FIELDS,
    best_of_k,
    composed_epsilon,
    line_for_fit,
    line_nonprivate,
    main,
    read,
    releases,
    summary,
)
from wavedp.privacy.selection import RandomK, epsilon_of_best

CONFIG = PrivacyConfig(delta=1e-5, max_grad_norm=0.5)
ONE = Mechanism(0.01, 1.0, 1000)
NOW = "2026-11-21T12:00:00+00:00"


def fit_line(mechanism=ONE, *, stage_key="a", trials=("t1",), dataset="d1", config=CONFIG, n=60_000, release="r"):
    return line_for_fit(
        mechanism,
        config,
        dataset=dataset,
        n_records=n,
        stage_key=stage_key,
        trials=trials,
        purpose="private_fit",
        release=release,
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
        "release": "r",
        "trials": ["t1"],
        "time": NOW,
        "copies": 1,
    }


def test_kinds():
    assert fit_line(Mechanism(1.0, 4.0, 1))["kind"] == "gaussian"
    reference = fit_line(Mechanism(0.01, 0.0, 1000), config=PrivacyConfig(epsilon=math.inf))
    assert (reference["kind"], reference["epsilon"], reference["steps"]) == ("nonprivate", "inf", 1000)
    look = look_line()
    assert tuple(look) == FIELDS
    assert (look["kind"], look["epsilon"], look["steps"], look["delta"]) == ("nonprivate", "inf", None, None)
    assert fit_line(config=PrivacyConfig())["delta"] == pytest.approx(1 / (60_000 * math.log(60_000)))


def test_a_mechanism_of_another_kind_stands_under_its_name():
    vote = Mechanism(1.0, 4.0, 3, kind="noisy_vote")
    line = fit_line(vote) | {"purpose": "votes"}
    assert (line["kind"], line["max_grad_norm"]) == ("noisy_vote", None)
    assert (fit_line()["kind"], fit_line()["max_grad_norm"]) == ("dp_sgd", 0.5)
    assert fit_line(Mechanism(1.0, 4.0, 1))["max_grad_norm"] is None
    assert fit_line(Mechanism(1.0, 0.0, 3, kind="noisy_vote"))["kind"] == "nonprivate"
    assert ledger_module.mechanism_of(line).ledger_kind == "noisy_vote"
    assert composed_epsilon([line, fit_line()])["d1"] == accounting.compose([vote, ONE], 1e-5)


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


def test_a_stage_made_again_with_other_noise_is_a_second_release(tmp_path):
    again = fit_line(trials=["t2"], release="s")
    unknown = fit_line(trials=["t3"], release=None)
    assert [line["trials"] for line in releases([fit_line(), again, unknown, again])] == [["t1"], ["t2"], ["t3"]]
    assert composed_epsilon([fit_line(), again])["d1"] == accounting.compose([ONE, ONE], 1e-5)
    with pytest.raises(UserError, match=r"noise_multiplier=1.0 and with 2.0"):
        releases([fit_line(), fit_line(Mechanism(0.01, 2.0, 1000), release="s")])
    written_before = {field: value for field, value in unknown.items() if field != "release"}
    (tmp_path / "ledger.jsonl").write_text(json.dumps(written_before) + "\n")
    assert read(tmp_path / "ledger.jsonl") == [unknown]


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


def random_study(folder, lines, **random_k):
    folder.mkdir()
    written(folder / "ledger.jsonl", [json.dumps(line) + "\n" for line in lines])
    random_k = {"distribution": "geometric", "mean": 12, "seed": 0, "drawn": 7} | random_k
    (folder / "study.yaml").write_text(yaml.safe_dump({"axes": {"search": {"random_k": random_k}}}))
    return str(folder)


def test_each_trial_pays_for_all_it_uses():
    means, fit = Mechanism(1.0, 20.0, 1), Mechanism(0.01, 1.0, 1000)
    lines = [
        fit_line(means, trials=["t1", "t2"]) | {"purpose": "class_means"},
        fit_line(fit, trials=["t1", "t2"]),
        fit_line(fit, stage_key="b", trials=["t3"]),
        fit_line(Mechanism(0.01, 0.0, 1000), stage_key="c", trials=["t4"]),
        look_line(trials=["t1", "t5"]),
    ]
    both = accounting.compose([means, fit], 1e-5)
    assert ledger_module.trial_epsilons(lines) == {"t1": both, "t2": both, "t3": fit_line()["epsilon"], "t4": math.inf}
    assert f"{both:>9.4g}  t2\n" in summary(lines)


def test_the_best_of_a_random_number_of_trials_has_a_price(tmp_path, capsys):
    lines = [fit_line(stage_key=str(k), trials=[f"t{k}"]) for k in range(7)] + [look_line(dataset="test split")]
    assert main([random_study(tmp_path / "s", lines)]) == 0
    price = epsilon_of_best([[ONE]], 1e-5, RandomK("geometric", 12))
    text = capsys.readouterr().out
    assert f"Best of K ~ geometric(mean 12) trials: epsilon = {price:.4g} at delta = 1e-05 (RDP" in text
    assert "for whoever sees the best trial alone: not K, its seed, another trial or this ledger." in text
    assert lines[0]["epsilon"] < price < composed_epsilon(lines)["d1"]
    assert main([random_study(tmp_path / "u", lines, distribution="fixed")]) == 2
    assert "needs a random K" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (fit_line(Mechanism(0.01, 2.0, 1000), stage_key="b"), "runs are of 2 mechanisms"),
        (fit_line(dataset="d2", stage_key="b"), "runs are of 2 mechanisms"),
        (look_line(), "look without noise at dataset d1"),
        (fit_line(Mechanism(0.01, 0.0, 1000), stage_key="b"), "look without noise at dataset d1"),
    ],
)
def test_a_random_k_without_the_theorems_assumptions_is_refused(more, words):
    axes = {"search": {"random_k": {"distribution": "geometric", "mean": 12}}}
    sentence = best_of_k([fit_line(), more], axes)
    assert sentence.startswith("Best-of-K selection: refused.")
    assert words in sentence
    assert best_of_k([fit_line()], axes).startswith("Best of K ~")


def test_studies_share_what_they_release_once(tmp_path, capsys):
    first = [fit_line(trials=["t1"]), look_line()]
    second = [fit_line(trials=["u1"]), fit_line(stage_key="b", trials=["u2"]), fit_line(dataset="d2", stage_key="c")]
    folders = [random_study(tmp_path / name, lines) for name, lines in (("one", first), ("two", second))]
    assert main([*folders, folders[0]]) == 0
    text = capsys.readouterr().out
    total = accounting.compose([ONE] * 2, 1e-5)
    end = text[text.index("2 studies together, 1 lines of them in common") :]
    assert f"All 2 releases of dataset d1 composed: epsilon = {total:.4g} at delta = 1e-05." in end
    assert f"All 1 releases of dataset d2 composed: epsilon = {second[2]['epsilon']:.4g}" in end
    assert text.count("looks without noise") == 2


def written(path, rows):
    path.write_text("".join(rows))
    return path


def test_reading(tmp_path):
    rows = [json.dumps(line) + "\n" for line in (fit_line(), look_line(), fit_line(stage_key="b"))]
    path = tmp_path / "ledger.jsonl"
    assert read(written(path, rows)) == [json.loads(row) for row in rows]
    assert len(read(written(path, [*rows[:2], rows[2].rstrip("\n")]))) == 3
    with pytest.raises(UserError, match=r"line 3 of .* was cut off, so what it said is missing"):
        read(written(path, [*rows[:2], rows[2][:50]]))  # it may be a release
    with pytest.raises(UserError, match=r"line 2 of .* is broken"):
        read(written(path, [rows[0], rows[1][:50] + "\n", rows[2]]))
    with pytest.raises(UserError, match=r"line 2 of .* is broken"):
        read(written(path, [rows[0], rows[1][:50] + rows[2], rows[2][:20]]))
    with pytest.raises(UserError, match=r"line 1 of .* is broken .*'kind' is missing"):
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


def test_a_release_that_prv_cannot_bound_is_not_cross_checked():
    dear = fit_line(Mechanism(0.5, 0.1, 100), n=1000)
    (line,) = ledger_module.cross_check([dear]).splitlines()
    assert "epsilon = 3542 (PLD) at delta = " in line
    assert "not cross-checked: accountant=prv needs a grid of" in line
