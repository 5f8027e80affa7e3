"""The audit as a whole: an honest fit passes, each sabotage is rejected by name, and wrong input is a sentence."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from wavedp.audit import __main__ as command
from wavedp.audit import bounds, canaries, mechanism, membership, report, sabotage
from wavedp.audit.bounds import Scores
from wavedp.audit.evidence import of_noise, of_votes
from wavedp.errors import UserError
from wavedp.privacy import ledger, training
from wavedp.privacy.accounting import Mechanism, calibrate

DELTA, LEVEL = 1e-5, 0.01
SMALL = sabotage.Setting(canaries=160, draws=20_000, steps=4)


def images(n=16):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 7, 7, generator=generator), torch.arange(n) % 4


LOW = [(mode, precision) for mode in ("hooks", "bookkeeping") for precision in ("tf32", "bfloat16")]


@pytest.mark.parametrize(
    ("mode", "precision"), [*((mode, "float32") for mode in ("hooks", "ghost", "bookkeeping")), *LOW]
)
def test_a_step_is_the_gaussian_mechanism_it_claims_to_be(mode, precision):
    sigma = calibrate(4.0, DELTA, 1, 1)
    drawn = mechanism.draw_steps(Mechanism(1.0, sigma, 1), 50_000, 0, mode, precision)
    assert drawn.vote == pytest.approx(1.0, abs=1e-4)
    assert drawn.drawn == 50_000
    for scores, mean in ((drawn.scores.included, 1 / sigma), (drawn.scores.excluded, 0.0)):
        assert scores.mean() == pytest.approx(mean, abs=0.02)
        assert scores.std() == pytest.approx(1.0, abs=0.015)
    at = bounds.best_thresholds(1 / sigma, 50_000, DELTA, 0.95)
    low = bounds.gaussian(drawn.scores, at.mu, DELTA, 0.95)
    assert 0.9 * 4 < low <= 4
    assert 2 < bounds.clopper_pearson(drawn.scores, at.epsilon, DELTA, 0.95) < 4
    assert of_noise(drawn.noise).p_value > 1e-4


def test_a_subsampled_step_is_a_mixture():
    sigma = calibrate(10.0, DELTA, 0.1, 1)
    drawn = mechanism.draw_steps(Mechanism(0.1, sigma, 1), 50_000, 0)
    assert drawn.drawn / 50_000 == pytest.approx(0.1, abs=0.005)
    assert drawn.scores.included.mean() == pytest.approx(0.1 / sigma, abs=0.025)
    at = bounds.best_thresholds(1 / sigma, 50_000, DELTA, 0.95, 0.1)
    assert 3 < bounds.clopper_pearson(drawn.scores, at.epsilon, DELTA, 0.95) < 10


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_canaries_of_a_real_fit_are_seen_as_clearly_as_its_claim_allows(precision):
    """Their scores are N(μ, 1) and N(0, 1) with the claim's own μ: the fit has no slack that an attack would miss."""
    claim = {"epsilon": 10.0, "delta": DELTA, "rate": 1.0}
    fit = canaries.audited_fit(*images(), **claim, canaries=400, steps=2, seed=0, coins=0, precision=precision)
    mu = math.sqrt(2) / fit.mechanism.noise_multiplier
    assert mu == pytest.approx(bounds.mu_of(10.0, DELTA), rel=1e-3)
    assert fit.n_records == 16 + len(fit.scores.included)
    assert fit.scores.m == 400
    assert fit.scores.included.mean() == pytest.approx(0.99 * mu, abs=4 / math.sqrt(200))
    assert fit.scores.excluded.mean() == pytest.approx(0.0, abs=4 / math.sqrt(200))
    assert fit.scores.excluded.std() == pytest.approx(1.0, abs=0.2)
    assert np.isnan(fit.noise).all(1).sum() == len(fit.scores.included)
    assert np.nanstd(fit.noise) == pytest.approx(1.0, abs=0.03)
    guesses = bounds.best_guesses(mu, 400, DELTA, 0.95).epsilon
    low = bounds.one_run(400, guesses, bounds.right_guesses(fit.scores, guesses), DELTA, 0.95)
    assert 1.5 < low < 10


@pytest.fixture(scope="module", params=["float32", "bfloat16"])  # a CPU has no TF32
def findings(request):
    setting = replace(SMALL, precision=request.param)
    return {finding.sabotage: finding for finding in sabotage.suite(*images(), LEVEL, 0, setting)}


def test_the_fit_as_it_is_passes(findings):
    assert findings[None].rejection is None, findings[None].rejection
    assert findings[None].expected
    assert all(item.p_value > LEVEL / sabotage.EVIDENCE for item in findings[None].evidence)


WHAT_SHOWS = {
    "noise off": {"noise", "ε, one step at q = 1, Gaussian"},
    "noise halved": {"noise", "ε, one step at q = 1, Gaussian"},
    "clipping off": {"vote of a record", "votes of included canaries", "ε, one step at q = 1, Gaussian"},
    "clip per batch (mean)": {"vote of a record", "votes of included canaries", "ε, one step at q = 1, Gaussian"},
    "clip per batch (sum)": {"vote of a record", "ε, one step at q = 1, Gaussian"},
    "sampling twice as often": {"sample rate", "votes of included canaries"},
    "noise shared by releases": {"correlation of two releases' noise"},
}


def test_every_sabotage_is_listed_here():
    assert set(WHAT_SHOWS) == set(sabotage.SABOTAGES)


@pytest.mark.parametrize("name", WHAT_SHOWS)
def test_each_sabotage_is_rejected_by_what_it_breaks(findings, name):
    finding = findings[name]
    assert finding.expected
    assert finding.rejection is not None
    shown = {item.name for item in finding.evidence if item.p_value < LEVEL / sabotage.EVIDENCE}
    assert WHAT_SHOWS[name] <= shown
    assert shown <= WHAT_SHOWS[name] | {item.name for item in finding.evidence if item.name.startswith("ε")}


def test_sabotage_ends_with_its_context():
    before = training.noisy_mean, training.poisson_sample, training.derive_seed
    clipping_factors, clipped_sum = sabotage.clipping.clipping_factors, sabotage.RecordGradients.clipped_sum
    for name in sabotage.SABOTAGES:
        with pytest.raises(KeyError), sabotage.SABOTAGES[name]():
            raise KeyError
    assert before == (training.noisy_mean, training.poisson_sample, training.derive_seed)
    assert (clipping_factors, clipped_sum) == (
        sabotage.clipping.clipping_factors,
        sabotage.RecordGradients.clipped_sum,
    )


def test_a_sabotage_that_does_nothing_is_reported(monkeypatch):
    """The suite's own sabotage: an audit that cannot fail would call this one rejected."""
    monkeypatch.setitem(sabotage.SABOTAGES, "nothing", lambda: sabotage.noise_scaled(1.0))
    _, finding = sabotage.suite(*images(), LEVEL, 0, SMALL, ["nothing"])
    assert finding.rejection is None
    assert not finding.expected


def scores_of(shift, n=400):
    rng = np.random.default_rng(0)
    return Scores(rng.standard_normal(n) + shift, rng.standard_normal(n))


def test_auc_and_rates_are_those_of_two_normals():
    found = membership.auc(scores_of(1.0))
    assert found.low < 0.760 < found.high  # Φ(1 / √2)
    assert found.value == pytest.approx(0.760, abs=0.03)
    none = membership.auc(scores_of(0.0))
    assert none.low < 0.5 < none.high
    assert membership.auc(Scores(np.zeros(5), np.zeros(7))).value == 0.5
    at = membership.tpr_at(scores_of(5.0), 0.01)
    assert at.value > 0.97
    assert membership.tpr_at(Scores(np.arange(100.0), np.arange(100.0)), 0.01).value == 0.01


def test_a_roc_rises_from_the_origin_to_one():
    fpr, tpr = membership.roc(scores_of(1.0))
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert fpr == sorted(fpr)
    assert tpr == sorted(tpr)
    assert all(y >= x for x, y in zip(fpr, tpr, strict=True) if x > 0.05)
    assert len(fpr) < 100


def test_copies_of_members_are_nearer_to_members():
    members, others = torch.rand(2, 60, 1, 7, 7, generator=torch.Generator().manual_seed(1))
    near = membership.nearness(members[:30] + 0.01, members, others)
    assert near["p_value"] == 1 / (1 + membership.SHUFFLES)
    assert near["difference"] > near["chance_high"] > 0 > near["chance_low"]
    assert near["ratio"] < 0.2
    assert membership.nearness(others[:30], members, others)["p_value"] == 1.0


def test_nearness_by_chance_is_not_taken_for_more():
    """Samples that know nothing of the coins: at most about one set of records in twenty has p <= 0.05."""
    generator, found = torch.Generator().manual_seed(2), []
    samples = torch.rand(100, 1, 3, 3, generator=generator)
    for _ in range(60):
        members, others = torch.rand(2, 20, 1, 3, 3, generator=generator)
        found.append(membership.nearness(samples, members, others)["p_value"])
    assert sum(p <= 0.05 for p in found) <= 8  # of 60; 3 expected, 1.7 a standard deviation
    assert 0.3 < sum(found) / 60 < 0.7


def test_what_was_learned_by_heart_is_found():
    """Without privacy and with many steps on few images: the attack has eyes."""
    shown, labels = images(60)
    pool = membership.Pool(shown, labels, shown[:8], labels[:8], 4)
    setting = membership.AttackSetting(canaries=20, samples=8, rate=1.0, steps=25, pretrain_steps=0)
    found = membership.attack(pool, math.inf, DELTA, setting, seed=0)
    assert math.isinf(found.spent)
    assert set(found.scores) == {(kind, name) for kind in report.KINDS for name in membership.SCORES}
    assert membership.auc(found.scores["images", "calibrated"]).low > 0.7
    assert found.scores["images", "loss"].m == 60
    assert found.scores["canaries", "loss"].m == 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The whole command, in miniature, with one sabotage that it must reject."""
    results = tmp_path_factory.mktemp("results") / "audit"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sabotage, "SABOTAGES", {"noise halved": sabotage.SABOTAGES["noise halved"]})
        arguments = ["--quick", "--epsilon", "4", "--records", "40", "--draws", "5000", "--results", str(results)]
        assert command.main(arguments) == 0
    return results


def test_the_command_writes_what_figures_need(folder):
    about, *rows = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    assert about["kind"] == "about"
    assert about["failures"] == []
    found = [row for row in rows if row["kind"] == "bound"]
    assert len([row for row in found if row["claim"] == 4.0]) == report.BOUNDS_PER_CLAIM
    assert {row["claim"] for row in found} == {4.0, "inf"}
    for row in found:
        assert row["low_verdict"] <= row["low"]
        assert not row["exceeds"]
    assert [row["rejected"] for row in rows if row["kind"] == "sabotage"] == [False, True]
    assert {row["kind"] for row in rows} == {"bound", "attack", "nearest", "sabotage"}
    assert not (folder / "ledger.jsonl").exists()  # procedural images are public
    curves = [json.loads(line) for line in (folder / "roc.jsonl").read_text().splitlines()]
    assert {row["curve"] for row in curves if row["claim"] == 4.0} == {
        "step", "fit", *(f"{kind}, {name}" for kind in report.KINDS for name in membership.SCORES)
    }  # fmt: skip
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1e6


def test_a_bound_above_its_claim_is_exit_status_one(monkeypatch, tmp_path, capsys):
    def broken(settings, pool, about, progress):
        row = {"kind": "bound", "part": "step", "bound": "Gaussian", "claim": 1.0, "low_verdict": 2.0, "exceeds": True}
        return report.Result([about, row], [], report.failures_of([row], []), [])

    monkeypatch.setattr(command, "run", broken)
    monkeypatch.setattr(command, "tables", lambda rows: "")
    assert command.main(["--records", "40", "--results", str(tmp_path)]) == 1
    assert "step, Gaussian: the bound 2 exceeds the claim 1." in capsys.readouterr().out


def test_a_bound_is_held_against_its_claim_at_the_confidence_of_the_verdict():
    asked = []

    def low(confidence):
        asked.append(confidence)
        return 1.2 if confidence == report.CONFIDENCE else 0.9

    settings = report.Settings()
    row = report._bound_row({"claim": 1.0}, "Gaussian", low, settings)
    assert (row["low"], row["low_verdict"], row["exceeds"]) == (1.2, 0.9, False)
    share = report.FALSE_ALARM / (3 * report.BOUNDS_PER_CLAIM)
    assert sorted(asked) == [0.95, pytest.approx(1 - share)]
    assert report._bound_row({"claim": 0.8}, "Gaussian", low, settings)["exceeds"]
    assert not report._bound_row({"claim": math.inf}, "Gaussian", low, settings)["exceeds"]


def test_what_sensitive_images_cost_is_a_ledger(tmp_path):
    mechanism_ = Mechanism(1.0, 2.0, 4)
    result = report.Result(
        [], [], [], [("audit, white-box fit", mechanism_, 90), ("audit, x", Mechanism(0.5, 0, 2), 80)]
    )
    lines = command.ledger_lines(result, "abc", DELTA, "run")
    dp, without, look = lines
    assert (dp["kind"], dp["noise_multiplier"], dp["dataset"], dp["n_records"]) == ("dp_sgd", 2.0, "abc", 90)
    assert without["kind"] == look["kind"] == "nonprivate"
    path = tmp_path / "ledger.jsonl"
    for run in ("run", "other", "run"):  # another audit adds to it, the same one again does not
        command.add_to_ledger(path, command.ledger_lines(result, "abc", DELTA, run))
    assert len(ledger.read(path)) == 6
    assert len(ledger.composed_epsilon(ledger.read(path))) == 1
    assert ledger.composed_epsilon(ledger.read(path))["abc"] > ledger.composed_epsilon(lines)["abc"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epsilon", "0"], "epsilon=0 cannot be audited"),
        (["--epsilon", "inf"], "epsilon=inf cannot be audited"),
        (["--epsilon", "1", "1"], "names a claim twice"),
        (["--canaries", "3"], "canaries=3 is too few"),
        (["--steps", "0"], "steps=0 is too few"),
        (["--draws", "10"], "draws=10 is too few"),
        (["--delta", "2"], "delta=2.0 is out of range"),
        (["--data", "nothing"], "data.name='nothing' is not a dataset"),
        (["--data", "fashion_mnist", "--home", "nowhere"], "fashion_mnist"),
        (["--records", "0"], "data.limit=0"),
    ],
)
def test_bad_input_is_a_sentence_and_status_two(arguments, sentence, tmp_path, capsys):
    assert command.main([*arguments, "--results", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("Error: ")
    assert not (tmp_path / "none").exists()


def test_a_few_canaries_give_no_bound():
    with pytest.raises(UserError, match="canaries=19 give no bound"):
        canaries.audited_fit(*images(), epsilon=1.0, delta=DELTA, canaries=19, rate=1.0, steps=1, seed=0, coins=0)


def test_votes_above_expectation_are_improbable():
    rng = np.random.default_rng(0)
    assert of_votes(rng.standard_normal(300) + 1.0, 1.0, 1.0).p_value > 0.01
    assert of_votes(rng.standard_normal(300) + 2.0, 1.0, 1.0).p_value < 1e-9
