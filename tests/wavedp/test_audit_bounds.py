"""Lower bounds on ε: against other formulas, other people's numbers, and their promise to stay below the truth."""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from wavedp.audit import bounds
from wavedp.audit.bounds import Scores
from wavedp.audit.evidence import Evidence, of_noise, of_sampling, of_sharing, of_vote, of_votes, rejected
from wavedp.privacy.accounting import Mechanism, calibrate, compose

DELTA = 1e-5


@pytest.mark.parametrize(("m", "ceiling"), [(100, 3.49), (500, 5.10), (1000, 5.78), (5000, 7.28), (10000, 7.83)])
def test_the_ceiling_of_one_run_is_what_others_computed(m, ceiling):
    """Every guess right; the figures were computed with jax_privacy's CanaryScoreAuditor."""
    assert bounds.one_run(m, m, m, DELTA, 0.95) == pytest.approx(ceiling, abs=0.006)


# The same table: medians of five ideal audits, one-run at r = m with its own rule for r, f-DP, Clopper-Pearson, GDP.
POWER = {(4, 1000): (0.84, 1.29, 0.59, 2.73), (4, 5000): (1.47, 1.93, 1.18, 3.42), (10, 1000): (2.51, 4.11, 2.32, 8.64)}


@pytest.mark.parametrize(("claim", "others"), POWER.items())
def test_an_ideal_attacker_finds_at_least_what_others_find_and_not_more_than_there_is(claim, others):
    epsilon, m = claim
    mu = bounds.mu_of(epsilon, DELTA)
    guesses = bounds.best_guesses(mu, m, DELTA, 0.95)
    at = bounds.best_thresholds(mu, m // 2, DELTA, 0.95)
    found = []
    for seed in range(9):
        scores = bounds.ideal_scores(mu, m, np.random.default_rng(seed))
        right = [bounds.right_guesses(scores, r) for r in guesses]
        found.append(
            (
                bounds.one_run(m, guesses.epsilon, right[0], DELTA, 0.95),
                bounds.one_run_gaussian(m, guesses.mu, right[1], DELTA, 0.95),
                bounds.clopper_pearson(scores, at.epsilon, DELTA, 0.95),
                bounds.gaussian(scores, at.mu, DELTA, 0.95),
            )
        )
    ours = np.median(found, axis=0)
    assert (ours > 0.9 * np.array(others)).all(), ours
    assert (ours < epsilon).all(), ours


def test_the_gaussian_conversion_is_the_accountants():
    for epsilon in (0.5, 1.0, 4.0, 10.0):
        sigma = calibrate(epsilon, DELTA, 1, 1)
        assert bounds.mu_of(epsilon, DELTA) == pytest.approx(1 / sigma, rel=1e-3)
        assert bounds.epsilon_of(1 / sigma, DELTA) == pytest.approx(compose([Mechanism(1, sigma, 1)], DELTA), rel=1e-3)
    assert bounds.epsilon_of(0.0, DELTA) == bounds.epsilon_of(1e-6, DELTA) == 0.0


def test_clopper_pearson_is_scipys_interval():
    scores = Scores(np.array([1.0] * 70 + [0.0] * 30), np.array([1.0] * 20 + [0.0] * 130))
    miss = 0.05 / 2
    tpr = binomtest(70, 100, alternative="greater").proportion_ci(1 - miss).low
    fpr = binomtest(20, 150, alternative="less").proportion_ci(1 - miss).high
    expected = max(math.log((tpr - DELTA) / fpr), math.log((1 - fpr - DELTA) / (1 - tpr)))
    assert bounds.clopper_pearson(scores, 0.5, DELTA, 0.95) == pytest.approx(expected)
    mu = norm.ppf(tpr) - norm.ppf(fpr)
    assert bounds.gaussian(scores, 0.5, DELTA, 0.95) == pytest.approx(bounds.epsilon_of(mu, DELTA))


def test_one_run_p_value_is_the_theorem_spelled_out():
    m, r, v, epsilon, delta = 50, 30, 24, 0.7, 1e-3
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    law = [math.comb(r, k) * right**k * (1 - right) ** (r - k) for k in range(r + 1)]
    worst = max(sum(law[v - i : v]) / i for i in range(1, m + 1) if v - i >= 0)
    expected = sum(law[v:]) + 2 * m * delta * worst
    assert bounds.one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(expected)
    assert bounds.one_run_p_value(m, r, v, epsilon, 0.0) == pytest.approx(binom.sf(v - 1, r, right))


def test_the_f_dp_bound_of_one_canary_is_its_trade_off():
    """m = r = v = 1: right with a tail of τ and more is impossible iff f̄⁻¹(τ) + τ > 1, whose end is Φ⁻¹."""
    tail = 0.9
    expected = norm.ppf(tail) - norm.ppf(1 - tail)
    assert bounds.one_run_mu(1, 1, 1, 1 - tail) == pytest.approx(expected, abs=1e-3)


def test_the_f_dp_bound_holds_for_every_law_of_right_guesses():
    """No law of V for two canaries that f-DP allows may have a larger tail than the bound lets it: by enumeration."""
    mu, m = 0.8, 2
    p2, p1 = np.meshgrid(np.linspace(0, 1, 401), np.linspace(0, 1, 401))
    # R_2 = p2, W_1 = p1 / 2, R_1 = p2 + p1 / 2, W_0 = p1 / 2 + p0, for each canary given the other.
    r1, w0 = p2 + p1 / 2, 1 - p2 - p1 / 2
    allowed = (p1 + p2 <= 1) & (p2 <= norm.cdf(norm.ppf(p1 / 2) + mu)) & (r1 <= norm.cdf(norm.ppf(w0) + mu))
    worst = float(p2[allowed].max())
    assert 0.3 < worst < 0.9
    assert bounds.one_run_mu(m, m, 2, 1 - 0.99 * worst) < mu < bounds.one_run_mu(m, m, 2, 1 - 1.02 * worst)


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_bounds_exceed_a_tight_claim_in_at_most_one_run_of_twenty(epsilon):
    runs, m, mu = 200, 400, bounds.mu_of(epsilon, DELTA)
    guesses = bounds.best_guesses(mu, m, DELTA, 0.95)
    at = bounds.best_thresholds(mu, m // 2, DELTA, 0.95)
    above = np.zeros(4)
    for seed in range(runs):
        scores = bounds.ideal_scores(mu, m, np.random.default_rng(1000 + seed))
        # By p-values where they are cheaper than the bounds, which they define.
        r, v = guesses.epsilon, bounds.right_guesses(scores, guesses.epsilon)
        above += [
            bounds.one_run_p_value(m, r, v, epsilon, DELTA) < 0.05,
            bounds._least_mass(mu, m, guesses.mu, bounds.right_guesses(scores, guesses.mu), 0.05) > guesses.mu / m,
            bounds.clopper_pearson(scores, at.epsilon, DELTA, 0.95) > epsilon,
            bounds.gaussian(scores, at.mu, DELTA, 0.95) > epsilon,
        ]
    assert (above <= 18).all(), above  # 5 % of 200 and 2.6 standard deviations


def test_one_run_is_tight_for_randomised_response():
    """ε-DP and nothing else: right with probability e^ε / (1 + e^ε), each canary by itself."""
    rng, epsilon, m = np.random.default_rng(0), 1.0, 1000
    right = 1 / (1 + math.exp(-epsilon))
    above = [bounds.one_run_p_value(m, m, int(v), epsilon, 0.0) < 0.05 for v in rng.binomial(m, right, 2000)]
    assert 0.03 < np.mean(above) < 0.065


def test_scores_without_information_give_nothing():
    rng = np.random.default_rng(0)
    for constant in (True, False):
        values = np.zeros(1000) if constant else rng.standard_normal(1000)
        scores = Scores(values[:500], values[500:])
        right = bounds.right_guesses(scores, 200)
        assert 70 < right < 130
        assert bounds.one_run(1000, 200, right, DELTA, 0.95) == 0
        assert bounds.one_run_gaussian(1000, 200, right, DELTA, 0.95) == 0
        assert bounds.clopper_pearson(scores, 0.0, DELTA, 0.95) == 0
        assert bounds.gaussian(scores, 0.0, DELTA, 0.95) == 0


def test_guesses_are_half_in_and_half_out():
    scores = Scores(np.array([3.0, 2.0, -9.0]), np.array([1.0, 0.0, 9.0]))
    assert bounds.right_guesses(scores, 2) == 0  # 9 is out, -9 is in
    assert bounds.right_guesses(scores, 4) == 2  # 3 is in, 0 is out
    assert bounds.right_guesses(scores, 6) == 4
    separated = Scores(np.arange(10.0, 20.0), np.arange(10.0))
    assert [bounds.right_guesses(separated, r) for r in (2, 10, 20)] == [2, 10, 20]


def test_a_smaller_confidence_or_more_guesses_right_never_lower_a_bound():
    values = [bounds.one_run(1000, 200, v, DELTA, 0.95) for v in range(100, 201, 20)]
    assert values == sorted(values)
    assert values[0] == 0 < values[-1]
    assert bounds.one_run(1000, 200, 180, DELTA, 0.999) < values[4]
    assert bounds.one_run_mu(1000, 200, 180, 0.999) < bounds.one_run_mu(1000, 200, 180, 0.95)


def test_p_values_of_measurements_are_uniform_or_larger_under_the_claim():
    rng = np.random.default_rng(0)
    found = {"noise": [], "sampling": [], "votes": [], "sharing": []}
    for _ in range(400):
        found["noise"].append(of_noise(rng.standard_normal(500)).p_value)
        found["sampling"].append(of_sampling(int(rng.binomial(500, 0.3)), 500, 0.3).p_value)
        found["votes"].append(of_votes(2 + 1.5 * rng.standard_normal(500), 2.0, 1.5).p_value)
        found["sharing"].append(of_sharing(rng.standard_normal(500), rng.standard_normal(500)).p_value)
    for name, values in found.items():
        assert np.mean(np.array(values) < 0.05) < 0.085, name


def test_measurements_beyond_the_claim_are_improbable():
    rng = np.random.default_rng(0)
    noise, other = rng.standard_normal(2000), rng.standard_normal(2000)
    assert of_noise(0.9 * noise).p_value < 1e-6 < of_noise(1.1 * noise).p_value
    assert of_sampling(400, 1000, 0.3).p_value < 1e-6 < of_sampling(200, 1000, 0.3).p_value
    assert of_votes(noise + 0.2, 0.0, 1.0).p_value < 1e-6 < of_votes(noise - 0.2, 0.0, 1.0).p_value
    assert of_sharing(noise, 0.3 * noise + other).p_value < 1e-6 < of_sharing(noise, other).p_value
    assert of_vote(1.01).p_value == 0 < of_vote(1.0).p_value


def test_the_strongest_evidence_rejects_and_all_share_the_level():
    weak, strong = Evidence("a", 1.0, 1.0, 0.004), Evidence("b", 3.0, 1.0, 1e-9)
    assert rejected([weak], 0.01) is weak
    assert rejected([weak, weak, weak], 0.01) is None
    assert rejected([weak, strong], 0.01) is strong
    assert "b 3, claimed <= 1" in str(strong)
