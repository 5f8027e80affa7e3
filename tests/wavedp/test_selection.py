"""The price of selection: against the paper's own laws, exact divergences of tiny mechanisms, and dp-accounting."""

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from scipy import stats
from scipy.special import logsumexp

from wavedp.errors import UserError
from wavedp.privacy.accounting import Mechanism, spent
from wavedp.privacy.selection import ORDERS, RandomK, drawn, epsilon_of_best, rdp_of_best

ONE = Mechanism(0.01, 1.0, 1000)
COUNTS = np.arange(4000)
LAWS = [
    RandomK("geometric", 5),
    RandomK("logarithmic", 5),
    RandomK("poisson", 1),
    RandomK("poisson", 5),
    RandomK("truncated_negative_binomial", 5, eta=0.5),
    RandomK("truncated_negative_binomial", gamma=0.05, eta=-0.5),
    RandomK("truncated_negative_binomial", gamma=0.2, eta=3),
]


def probabilities(law):
    """P(K = 0, 1, 2, …) by scipy, or, where it has no such law, by the product in the paper's definition 1."""
    if law.distribution == "poisson":
        return stats.poisson.pmf(COUNTS, law.mean)
    eta, gamma = law.shape
    if law.distribution == "geometric":
        return stats.geom.pmf(COUNTS, gamma)
    if law.distribution == "logarithmic":
        return stats.logser.pmf(COUNTS, 1 - gamma)
    if eta > 0:
        return np.where(COUNTS > 0, stats.nbinom.pmf(COUNTS, eta, gamma), 0) / (1 - gamma**eta)
    products = np.concatenate([[0], np.cumprod((COUNTS[:-1] + eta) / (COUNTS[:-1] + 1))])
    return (1 - gamma) ** COUNTS / (gamma**-eta - 1) * products


def best_of(outputs, law):
    """The exact law of the best of K outputs, 0 < 1 < …, after that of "nothing" (K = 0)."""
    chances = probabilities(law)
    below = [np.sum(chances * at_most**COUNTS) for at_most in np.cumsum(outputs).clip(max=1)]
    return np.diff([0, chances[0], *below])


def divergence(p, q, order):
    return logsumexp(order * np.log(p) + (1 - order) * np.log(q)) / (order - 1)


# One run's law of the score on neighbouring data sets: randomised response, a rare good output, three outputs.
PAIRS = [
    ([0.25, 0.75], [0.75, 0.25]),
    ([0.99, 0.01], [0.97, 0.03]),
    ([0.1, 0.3, 0.6], [0.2, 0.35, 0.45]),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_exact_divergence_of_the_best_is_within_the_bound(law, pair):
    p, q = map(np.array, pair)
    orders = np.array([1.1, 1.5, 2, 3, 5, 10, 30, 100, 300])
    single = np.array([max(divergence(p, q, order), divergence(q, p, order)) for order in orders])
    bound = rdp_of_best(orders, single, law)
    best = [best_of(outputs, law) for outputs in (p, q)]
    kept = best[0] > 0  # K = 0 has a chance with Poisson alone
    for one, other in (best, best[::-1]):
        exact = np.array([divergence(one[kept], other[kept], order) for order in orders])
        assert (exact <= bound + 1e-9).all()
    assert (np.diff(bound) >= 0).all()


@pytest.mark.parametrize("eta", [-0.5, 0, 1, 3])
def test_pure_privacy_of_one_run_costs_two_and_eta_times_as_much(eta):
    # Corollary 3 of the paper: ε-DP runs cost (2 + η) ε, whatever γ is.
    shape = {} if eta in (0, 1) else {"eta": eta}
    law = RandomK({0: "logarithmic", 1: "geometric"}.get(eta, "truncated_negative_binomial"), gamma=1e-3, **shape)
    assert rdp_of_best([1e6, 1e9], np.full(2, 0.7), law)[-1] == pytest.approx((2 + eta) * 0.7, rel=1e-6)


def test_a_fixed_number_of_runs_can_leak_more_than_any_random_one_of_its_mean():
    # Randomised response whose bad output all five runs must give: its likelihood ratio is that of five releases.
    p, q = np.array([0.25, 0.75]), np.array([0.75, 0.25])
    fixed = abs(math.log(p[0] ** 5 / q[0] ** 5))
    assert fixed == pytest.approx(5 * math.log(3))
    for law in LAWS[:2]:
        orders = np.array([2, 100, 1e4, 1e6])
        assert rdp_of_best(orders, np.full(4, math.log(3)), law)[-1] < 0.7 * fixed


@pytest.mark.parametrize(
    ("mean", "law", "golden"),
    [(40, "geometric", 4.83), (40, "logarithmic", 4.01), (40, "poisson", 9.81), (4, "poisson", 3.06),
     (16, "geometric", 4.36), (8, "logarithmic", 3.44)],
)  # fmt: skip
def test_golden_prices_of_a_thousand_steps(mean, law, golden):
    # RDP figures of another session; one run costs 2.10 by RDP, forty published 15.2.
    assert epsilon_of_best([[ONE]], 1e-5, RandomK(law, mean)) == pytest.approx(golden, abs=0.005)


@pytest.mark.parametrize("law", [law for law in LAWS if law.eta is None or law.eta > 0], ids=str)
def test_dp_accounting_prints_the_same(law):
    step = dp_event.PoissonSampledDpEvent(0.02, dp_event.GaussianDpEvent(1.5))
    shape = math.inf if law.distribution == "poisson" else law.shape[0]
    theirs = RdpAccountant(ORDERS)
    theirs.compose(dp_event.RepeatAndSelectDpEvent(dp_event.SelfComposedDpEvent(step, 300), law.expectation, shape))
    ours = epsilon_of_best([[Mechanism(0.02, 1.5, 300)]], 1e-5, law)
    assert ours == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-6)


def test_selection_costs_more_than_one_run_and_less_than_publishing_all():
    single, every = spent([ONE], 1e-5, "rdp"), spent([ONE] * 40, 1e-5, "rdp")
    prices = [epsilon_of_best([[ONE]], 1e-5, RandomK("geometric", mean)) for mean in (1.5, 4, 40)]
    assert single < prices[0] < prices[1] < prices[2] < every


def test_several_configurations_cost_at_least_the_worst_of_them():
    law, weak, strong = RandomK("geometric", 10), Mechanism(0.01, 1.2, 100), Mechanism(0.05, 2.0, 10)
    alone = [epsilon_of_best([[item]], 1e-5, law) for item in (weak, strong)]
    assert epsilon_of_best([[weak], [strong], [weak]], 1e-5, law) >= max(alone)
    assert epsilon_of_best([[weak], [weak]], 1e-5, law) == alone[0]
    # A run that releases twice is one candidate, and dearer than its parts.
    assert epsilon_of_best([[weak, strong]], 1e-5, law) > max(alone)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_draws_follow_the_law(law):
    chances = probabilities(law)
    assert chances.sum() == pytest.approx(1)
    assert np.sum(chances * COUNTS) == pytest.approx(law.expectation, rel=1e-6)
    if law.mean is not None:
        assert law.expectation == pytest.approx(law.mean, rel=1e-9)
    # The middle of each step of the distribution function is drawn as that step's K: the law itself, exactly.
    upper = np.cumsum(chances)
    for count in range(12):
        if chances[count] > 1e-9:
            assert law.draw(upper[count] - chances[count] / 2) == count
    assert law.draw(0.0) == (0 if law.distribution == "poisson" else 1)


def test_one_seed_is_one_k_and_seeds_have_the_mean():
    law = RandomK("geometric", 12)
    counts = [drawn(law, seed) for seed in range(2000)]
    assert counts == [drawn(law, seed) for seed in range(2000)]
    assert np.mean(counts) == pytest.approx(12, abs=4 * 12 / math.sqrt(2000))
    assert RandomK("poisson", 1000).draw(0.5) == 1000  # e^-1000 is no double
    assert any(drawn(RandomK("poisson", 1), seed) == 0 for seed in range(20))


def test_drawn_best_of_k_has_the_exact_law():
    law, outputs, rng = RandomK("logarithmic", 5), np.array([0.6, 0.3, 0.1]), np.random.default_rng(0)
    best = [max(rng.choice(3, size=drawn(law, seed), p=outputs)) for seed in range(4000)]
    assert np.bincount(best, minlength=3) / 4000 == pytest.approx(best_of(outputs, law)[1:], abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"distribution": "fixed", "mean": 12}, "needs a random K: use one of geometric"),
        ({"distribution": "geometric", "mean": 1}, "mean=1 of K is not random enough"),
        ({"distribution": "poisson", "mean": 0.5}, "mean=0.5"),
        ({"distribution": "geometric", "mean": math.inf}, "finite mean"),
        ({"distribution": "geometric"}, "one of the two"),
        ({"distribution": "poisson", "gamma": 0.1}, "use mean"),
        ({"distribution": "geometric", "mean": 3, "gamma": 0.1}, "one of the two"),
        ({"distribution": "geometric", "gamma": 1.0}, "gamma=1.0"),
        ({"distribution": "geometric", "mean": 3, "eta": 1.0}, "to no other"),
        ({"distribution": "truncated_negative_binomial", "mean": 3}, "eta=None"),
        ({"distribution": "truncated_negative_binomial", "mean": 3, "eta": -1}, "eta > -1"),
    ],
)
def test_laws_without_a_bound_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        RandomK(**arguments)


def test_a_mean_that_no_gamma_gives_is_refused():
    with pytest.raises(UserError, match=r"no gamma .*eta=-0\.9999 the mean 1000"):
        _ = RandomK("truncated_negative_binomial", 1000, eta=-0.9999).expectation


def test_runs_without_noise_and_no_runs_are_refused():
    with pytest.raises(UserError, match="without noise"):
        epsilon_of_best([[ONE], [Mechanism(0.01, 0.0, 1000)]], 1e-5, RandomK("geometric", 12))
    with pytest.raises(UserError, match="needs a mechanism"):
        epsilon_of_best([], 1e-5, RandomK("geometric", 12))
    with pytest.raises(UserError, match="delta=0"):
        epsilon_of_best([[ONE]], 0, RandomK("geometric", 12))


def test_a_run_that_costs_next_to_nothing_has_a_price():
    for law in (RandomK("poisson", mean=8), RandomK("geometric", mean=8)):
        assert 0 <= epsilon_of_best([[Mechanism(1e-9, 1e6, 1)]], 1e-5, law) < 0.01
