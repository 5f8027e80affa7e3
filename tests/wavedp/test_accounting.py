"""Budgets against other implementations: Opacus' PRV, RDP, a fine grid, the Gaussian mechanism's closed form."""

import ast
import json
import math
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from wavedp.config import PrivacyConfig
from wavedp.errors import InfeasibleError, UserError
from wavedp.privacy import accounting
from wavedp.privacy.accounting import (
    Mechanism,
    calibrate,
    check,
    check_delta,
    check_training,
    compose,
    delta,
    mechanisms,
    sample_rate,
    spent,
)

# DPImageBench's Fashion-MNIST setting: 55,000 records, batch 4,096, 150 epochs.
Q, STEPS, DELTA = 4096 / 55_000, 2014, 1.666e-6


def test_sample_rate_and_delta_are_exact():
    config = PrivacyConfig(batch_size=4096)
    assert sample_rate(config, 55_000) == 4096 / 55_000
    assert delta(config, 55_000) == pytest.approx(1.666e-6, rel=1e-3)
    assert delta(PrivacyConfig(delta=1e-5), 55_000) == 1e-5


@pytest.mark.parametrize(("epsilon", "prv_noise"), [(1, 14.06), (10, 1.935)])
def test_calibration_reproduces_the_known_setting(epsilon, prv_noise):
    # The golden numbers are Opacus' PRV calibration, its error bound included: PLD asks for up to 2 % less noise.
    noise = calibrate(epsilon, DELTA, Q, STEPS)
    assert prv_noise * 0.98 < noise < prv_noise * 1.002


@pytest.mark.parametrize(
    ("epsilon", "probability", "rate", "steps"),
    [
        (0.2, DELTA, Q, STEPS),
        (1, DELTA, Q, STEPS),
        (20, DELTA, Q, STEPS),
        (0.5, 1.5e-6, 512 / 60_000, 60),
        (10, 1.5e-6, 512 / 60_000, 60),
        (1, 1e-5, 1.0, 1),
        (3, 1e-5, 1.0, 20),
        (100, 1e-5, 0.5, 30),
    ],
)
def test_calibration_spends_all_of_the_budget_and_no_more(epsilon, probability, rate, steps):
    noise = calibrate(epsilon, probability, rate, steps)
    assert 0.99 * epsilon <= spent([Mechanism(rate, noise, steps)], probability) <= epsilon
    # Smallest: one less in the fourth digit is over budget.
    unit = 10.0 ** (math.floor(math.log10(noise)) - 3)
    assert float(f"{noise:.4g}") == noise
    assert spent([Mechanism(rate, noise - unit, steps)], probability) > epsilon


@pytest.mark.parametrize(
    "mechanism", [Mechanism(Q, 14.06, STEPS), Mechanism(Q, 1.935, STEPS), Mechanism(0.01, 1.0, 60)]
)
def test_coarse_grid_is_an_upper_bound_and_tight(mechanism):
    fine = PLDAccountant(value_discretization_interval=2e-5)
    step = dp_event.PoissonSampledDpEvent(mechanism.sample_rate, dp_event.GaussianDpEvent(mechanism.noise_multiplier))
    fine.compose(step, mechanism.steps)
    exact = fine.get_epsilon(DELTA)
    assert exact * (1 - 1e-6) <= spent([mechanism], DELTA) <= exact * 1.003


@pytest.mark.parametrize("noise", [14.06, 1.935])
def test_accountants_agree_in_order(noise):
    mechanism = [Mechanism(Q, noise, STEPS)]
    pld, prv, rdp = (spent(mechanism, DELTA, accountant) for accountant in ("pld", "prv", "rdp"))
    assert prv == pytest.approx(pld, rel=0.02)
    assert rdp >= pld


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0, 30.0])
def test_gaussian_mechanism_against_its_closed_form(noise):
    # Balle & Wang 2018, theorem 8, for sensitivity 1.
    def excess(epsilon):
        a, b = 0.5 / noise, epsilon * noise
        return norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) - 1e-5

    assert spent([Mechanism(1.0, noise, 1)], 1e-5) == pytest.approx(brentq(excess, 1e-6, 100), rel=2e-3)
    assert spent([Mechanism(1.0, noise * 3, 9)], 1e-5) == pytest.approx(brentq(excess, 1e-6, 100), rel=2e-3)


@pytest.mark.parametrize(("epsilon", "of_pld", "of_rdp"), [(1, 14.06, 14.92), (10, 1.935, 2.031)])
def test_two_libraries_and_three_accountants_agree_on_the_known_setting(epsilon, of_pld, of_rdp):
    # dp-accounting does pld and rdp here, Opacus prv; and Opacus' own RDP is the second library for that one.
    fit, dear = [Mechanism(Q, of_pld, STEPS)], [Mechanism(Q, of_rdp, STEPS)]
    assert compose(fit, DELTA, "prv") == pytest.approx(epsilon, rel=1e-2)
    assert 0.98 * epsilon < compose(fit, DELTA) < epsilon
    assert compose(dear, DELTA, "rdp") == pytest.approx(epsilon, rel=6e-3)
    theirs = RDPAccountant()
    theirs.history = [(of_rdp, Q, STEPS)]
    assert compose(dear, DELTA, "rdp") == pytest.approx(theirs.get_epsilon(DELTA), rel=2e-3)
    assert compose(dear, DELTA) < 0.95 * epsilon  # what the tighter accountant is worth


def test_a_schedule_of_noise_and_batch_size_is_its_steps_in_any_order():
    noises = [2.0, 1.5, 1.0] * 40
    history = [(0.01 if step < 60 else 0.02, noise) for step, noise in enumerate(noises)]
    grouped = [Mechanism(q, noise, 20) for q in (0.01, 0.02) for noise in (2.0, 1.5, 1.0)]
    assert spent(history, 1e-5) == compose(grouped, 1e-5) == spent([*grouped[:3], *history[60:]], 1e-5)
    assert spent(reversed(history), 1e-5, "rdp") == compose(grouped, 1e-5, "rdp")
    theirs = PRVAccountant()
    theirs.history = [(item.noise_multiplier, item.sample_rate, item.steps) for item in grouped]
    assert spent(history, 1e-5) == pytest.approx(theirs.get_epsilon(1e-5, eps_error=0.01), rel=0.02)


@pytest.mark.parametrize(("rate", "noise"), [(0.1, 1.0), (0.5, 2.0), (1.0, 3.0)])
def test_replacing_a_record_against_the_integral_of_its_definition(rate, noise):
    # One step on N(0, σ²), moved by +1 or by -1 with chance q: δ = ∫ max(0, p - e^ε p') dx, by quadrature.
    def excess(epsilon):
        x = np.linspace(-12 * noise, 12 * noise + 2, 400_001)
        p, other = ((1 - rate) * norm.pdf(x, 0, noise) + rate * norm.pdf(x, at, noise) for at in (1, -1))
        return np.trapezoid(np.maximum(0, p - np.exp(epsilon) * other), x) - 1e-5

    one = [Mechanism(rate, noise, 1)]
    assert compose(one, 1e-5, relation="replace_one") == pytest.approx(brentq(excess, 1e-3, 50), rel=3e-3)
    assert compose(one, 1e-5) < compose(one, 1e-5, relation="replace_one") < 2.5 * compose(one, 1e-5)


def test_replacing_a_record_composes_and_calibrates():
    # At q = 1 the sum moves by two: half the noise. Over many steps, against a fine grid.
    assert compose([Mechanism(1, 8.0, 9)], 1e-5, relation="replace_one") == pytest.approx(
        compose([Mechanism(1, 4.0, 9)], 1e-5), rel=2e-3
    )
    fine = PLDAccountant(NeighboringRelation.REPLACE_ONE, value_discretization_interval=1e-4)
    fine.compose(dp_event.PoissonSampledDpEvent(0.02, dp_event.GaussianDpEvent(1.5)), 100)
    many = compose([Mechanism(0.02, 1.5, 100)], 1e-5, relation="replace_one")
    assert fine.get_epsilon(1e-5) * 0.999 <= many <= fine.get_epsilon(1e-5) * 1.01
    noise = calibrate(2.0, 1e-5, 0.02, 100, relation="replace_one")
    assert 1.98 <= spent([Mechanism(0.02, noise, 100)], 1e-5, relation="replace_one") <= 2
    assert noise > calibrate(2.0, 1e-5, 0.02, 100)


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_accountants_that_do_not_know_replacement_refuse_it(accountant):
    with pytest.raises(UserError, match=f"accountant={accountant} has no relation=replace_one .*use accountant=pld"):
        compose([Mechanism(0.1, 1.0, 10)], 1e-5, accountant, "replace_one")
    with pytest.raises(UserError, match="relation='substitute' is not offered"):
        compose([Mechanism(0.1, 1.0, 10)], 1e-5, "pld", "substitute")


def test_composition_of_forty_releases():
    # RDP figures: one release costs 2.10, forty composed 15.2; their sum would be 84.
    one = Mechanism(0.01, 1.0, 1000)
    assert spent([one], 1e-5, "rdp") == pytest.approx(2.10, abs=0.01)
    assert spent([one] * 40, 1e-5, "rdp") == pytest.approx(15.2, abs=0.1)
    assert 0.85 * 15.2 < compose([one] * 40, 1e-5) < 15.2


def test_heterogeneous_composition_is_ordered_between_its_parts_and_agrees_with_prv():
    mechanisms = [Mechanism(Q, 2.0, 200), Mechanism(0.01, 1.0, 500), Mechanism(1.0, 5.0, 1)]
    total = compose(mechanisms, DELTA)
    assert (
        max(compose([item], DELTA) for item in mechanisms) < total < sum(compose([item], DELTA) for item in mechanisms)
    )
    assert compose(mechanisms[::-1], DELTA) == total
    assert spent(mechanisms, DELTA, "prv") == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize("epsilon", [0.5, 10])
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_fit_alongside_a_release_fills_the_joint_budget(epsilon, share):
    config = PrivacyConfig(epsilon=epsilon, delta=1e-5, batch_size=512, steps=60, mean_share=share)
    mean, fit = mechanisms(config, 60_000)
    assert (mean.sample_rate, mean.steps) == (1, 1)
    assert (fit.sample_rate, fit.steps) == (512 / 60_000, 60)
    # Alone, the means cost their share; together, all of the budget and no more; with a digit less noise, more.
    assert 0.98 * share * epsilon <= compose([mean], 1e-5) <= share * epsilon
    assert 0.98 * epsilon <= compose([mean, fit], 1e-5) <= epsilon
    unit = 10.0 ** (math.floor(math.log10(fit.noise_multiplier)) - 3)
    assert compose([mean, Mechanism(fit.sample_rate, fit.noise_multiplier - unit, 60)], 1e-5) > epsilon
    # The means cost the fit noise, but less than a budget cut in two would; a hundredth, none in four digits.
    alone, cut = (calibrate(part * epsilon, 1e-5, fit.sample_rate, 60) for part in (1, 1 - share))
    assert alone <= fit.noise_multiplier < cut
    assert alone < fit.noise_multiplier or share < 0.1
    assert compose([mean, fit], 1e-5) == pytest.approx(spent([mean, fit], 1e-5, "prv"), rel=0.02)


def test_mechanisms_of_a_fit_alone_and_without_privacy():
    config = PrivacyConfig(epsilon=2.0, delta=1e-5)
    rate = 128 / 60_000
    assert mechanisms(config, 60_000) == [Mechanism(rate, calibrate(2.0, 1e-5, rate, 320), 320)]
    config = PrivacyConfig(epsilon=math.inf, mean_share=0.1)
    assert mechanisms(config, 60_000) == [Mechanism(1, 0.0, 1), Mechanism(rate, 0.0, 320)]


def test_nothing_is_left_by_what_spends_the_budget_alongside():
    dear = Mechanism(1, calibrate(1.5, 1e-5, 1, 1), 1)
    with pytest.raises(InfeasibleError, match=r"alongside spends epsilon=1\.\d+ of 1 .* nothing for 60 steps"):
        calibrate(1.0, 1e-5, 0.01, 60, (dear,))


def test_limits():
    assert calibrate(math.inf, 1e-5, 0.1, 10) == 0.0
    assert compose([Mechanism(0.1, 1.0, 10), Mechanism(0.1, 0.0, 10)], 1e-5) == math.inf
    assert compose([], 1e-5) == 0.0


def test_infeasible_budget_names_everything():
    with pytest.raises(
        InfeasibleError, match=r"100 steps at sample rate 1 .*epsilon=0\.0001 at delta=1e-06: raise epsilon"
    ):
        calibrate(1e-4, 1e-6, 1.0, 100)


@pytest.mark.parametrize(
    ("changes", "n_records", "message"),
    [
        ({"epsilon": 0.0}, 1000, "epsilon=0.0"),
        ({"epsilon": -1.0}, 1000, "epsilon=-1.0"),
        ({"epsilon": math.nan}, 1000, "epsilon=nan"),
        ({"delta": 0.0}, 1000, "delta=0.0"),
        ({"delta": 1.0}, 1000, "delta=1.0"),
        ({"batch_size": 1001}, 1000, "batch_size=1001"),
        ({"batch_size": 0}, 1000, "batch_size=0"),
        ({"steps": 0}, 1000, "steps=0"),
        ({"steps": 0, "epsilon": math.inf}, 1000, "steps=0"),
        ({"max_grad_norm": 0.0}, 1000, "max_grad_norm=0.0"),
        ({"microbatch_size": 0}, 1000, "microbatch_size=0"),
        ({"ema_decay": 1.0}, 1000, "ema_decay=1.0"),
        ({"adam_floor": 0.0, "optimizer": "adam_bc"}, 1000, "adam_floor=0.0"),
        ({"mean_share": 1.0}, 1000, "mean_share=1.0"),
        ({"mean_share": -0.1}, 1000, "mean_share=-0.1"),
        ({"mean_share": math.nan}, 1000, "mean_share=nan"),
        ({"mean_share": 1e-9, "delta": 1e-6}, 1000, "mean_share=1e-09 gives the class means"),
        ({"batch_size": 1}, 2, "2 records"),
    ],
)
def test_check_refuses_before_training(changes, n_records, message):
    with pytest.raises(UserError, match=message):
        check(PrivacyConfig(**{"batch_size": 10, **changes}), n_records)


def test_check_warns_of_a_large_delta_only():
    assert check(PrivacyConfig(batch_size=10), 1000) == []
    (warning,) = check(PrivacyConfig(batch_size=10, delta=1e-3), 1000)
    assert "1/N" in warning


def test_the_parts_of_check_refuse_what_is_theirs():
    check_training(PrivacyConfig(adam_floor=0.0, delta=2.0, epsilon=-1.0))  # read by adam_bc, delta and the budget
    for name in ("batch_size", "steps", "learning_rate", "checkpoint_every"):
        with pytest.raises(UserError, match=rf"privacy\.{name}=0 trains nothing"):
            check_training(PrivacyConfig(**{name: 0}))
    assert check_delta(PrivacyConfig(steps=0), 1000) == []
    assert "1/N" in check_delta(PrivacyConfig(delta=1e-3), 1000)[0]
    with pytest.raises(UserError, match=r"delta=2\.0"):
        check_delta(PrivacyConfig(delta=2.0), 1000)
    with pytest.raises(UserError, match=r"privacy\.epsilon=-1\.0 is not a budget"):
        check(PrivacyConfig(epsilon=-1.0, steps=0), 1000)


def test_privacy_reads_no_field_of_the_generators():
    for path in Path(accounting.__file__).parent.glob("*.py"):
        read = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not read & {"lora_rank", "views", "scale_decay", "trained"}, path.name


def test_a_mechanism_is_equal_under_any_name():
    vote = Mechanism(1, 2.0, 1, kind="noisy_vote")
    assert (vote, hash(vote)) == (Mechanism(1, 2.0, 1), hash(Mechanism(1, 2.0, 1)))
    assert compose([vote, Mechanism(1, 2.0, 1)], 1e-5) == compose([Mechanism(1, 2.0, 2)], 1e-5)
    plain = [Mechanism(1, 2.0, 1), Mechanism(1, 2.0, 2), Mechanism(0.5, 2.0, 1)]
    assert [item.ledger_kind for item in (vote, *plain)] == ["noisy_vote", "gaussian", "dp_sgd", "dp_sgd"]
    for kind in ("nonprivate", "Vote", "noisy vote", "2nd", "x" * 33, "vote\n"):
        with pytest.raises(UserError, match=re.escape(f"kind={kind!r}")):
            Mechanism(1, 2.0, 1, kind)


def test_unknown_accountant_is_refused():
    with pytest.raises(UserError, match="accountant='gdp'"):
        spent([Mechanism(0.1, 1.0, 10)], 1e-5, "gdp")


PUBLISHED = Path(__file__).resolve().parents[2] / "results"


def test_the_published_noise_is_what_its_budget_still_asks_for():
    """The noise to its last digit: another would be another release under one key. ε differs by CPU in the ninth."""
    fits = {
        (line["sample_rate"], line["noise_multiplier"], line["steps"], line["delta"], line["epsilon"])
        for path in PUBLISHED.glob("*/ledger.jsonl")
        for line in map(json.loads, path.read_text().splitlines())
        if line["kind"] == "dp_sgd"
    }
    assert len(fits) > 5
    alone = 0
    for rate, noise, steps, probability, epsilon in fits:
        assert compose([Mechanism(rate, noise, steps)], probability) == pytest.approx(epsilon, rel=1e-6)
        alone += calibrate(round(epsilon), probability, rate, steps) == noise
    assert alone >= len(fits) - 1  # one of them has class means alongside


@pytest.mark.parametrize(
    ("epsilon", "probability", "rate", "steps", "noise"),
    [(1, 1e-5, 1e-6, 1000, 0.2744), (0.05, 1e-6, 1e-6, 10_000, 0.4275), (0.1, 1e-6, 1e-4, 1000, 0.6757)],
)
def test_a_tiny_sample_rate_is_calibrated_with_few_looks_at_small_grids(
    epsilon, probability, rate, steps, noise, monkeypatch
):
    """The golden noise is that of a grid of 100,000 points; ours is its upper bound, within 0.05 %."""
    monkeypatch.setattr(accounting, "_pld", accounting._pld.__wrapped__)
    looks = []
    real = accounting.pld.from_gaussian_mechanism

    def counted(*args, **kwargs):
        made = real(*args, **kwargs)
        looks.append(made._pmf_remove.size)
        return made

    monkeypatch.setattr(accounting.pld, "from_gaussian_mechanism", counted)
    found = calibrate.__wrapped__(epsilon, probability, rate, steps)
    assert noise <= found <= noise * 1.0005
    assert sum(looks) < 160_000  # three looks of 30,000 points, eight of 5,000: a second
    assert spent([Mechanism(rate, found, steps)], probability) <= epsilon


@pytest.mark.parametrize(
    ("mechanism", "probability"),
    [
        (Mechanism(0.5, 0.1, 100), 1e-5),  # an epsilon of 3,500
        (Mechanism(0.01, 0.3, 100_000), 1e-5),
        (Mechanism(0.01, 10.0, 1_000_000), 1e-5),  # a small epsilon, of many steps
    ],
)
def test_prv_is_refused_before_it_takes_gigabytes(mechanism, probability):
    """and PLD still answers, of any epsilon and any number of steps."""
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a grid of [\d,]+ points for \d+ steps .* gigabytes: use accountant=pld"):
        compose([mechanism], probability, "prv")
    assert tracemalloc.get_traced_memory()[1] < 5e8
    tracemalloc.stop()
    assert 0 <= compose([mechanism], probability) <= compose([mechanism], probability, "rdp") < math.inf


def test_where_prv_finds_no_bound_it_says_so_in_a_sentence():
    with pytest.raises(UserError, match=r"accountant=prv finds no bound at delta=1e-05 \(.*\): use accountant=pld"):
        compose([Mechanism(1, 0.01, 1)], 1e-5, "prv")


def test_arithmetic_at_its_limits():
    for probability in (1e-15, 1e-300):
        with pytest.raises(UserError, match=f"delta={probability} is below 1e-14"):
            compose([Mechanism(0.01, 1.0, 1000)], probability)
    assert 3 < compose([Mechanism(0.01, 1.0, 1000)], 1e-13) < compose([Mechanism(0.01, 1.0, 1000)], 1e-13, "rdp")
    for noise, word in ((1e-4, "small"), (1e-200, "small"), (1e10, "large")):
        with pytest.raises(UserError, match=f"noise_multiplier={noise} is too {word} .*use 0.001 to"):
            Mechanism(0.5, noise, 1)
    for noise in accounting.ACCOUNTABLE_NOISE:
        for rate in (1e-9, 0.5, 0.999999, 1):
            assert 0 <= compose([Mechanism(rate, noise, 1)], 1e-5) < math.inf
