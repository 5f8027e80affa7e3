"""Hard budgets: what still fits, by dataset and by what is made or in flight."""

import math

import pytest

from wavedp.config import PrivacyConfig
from wavedp.errors import UserError
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism, compose
from wavedp.privacy.budget import Budget, Release, made, release_refusal, stage_refusal
from wavedp.privacy.ledger import line_for_fit, line_nonprivate

FIT, MEANS, DELTA = Mechanism(0.01, 1.0, 1000), Mechanism(1.0, 20.0, 1), 1e-5
ONE = Release("d1", (FIT,), DELTA)
ALONE, BOTH = compose([FIT], DELTA), compose([FIT, FIT], DELTA)


def line(mechanism, key, purpose="private_fit"):
    config = PrivacyConfig(delta=DELTA)
    return line_for_fit(mechanism, config, dataset="d1", n_records=100, stage_key=key, trials=[], purpose=purpose)


def test_releases_are_admitted_up_to_the_budget_and_not_over_it():
    budget = Budget(epsilon=BOTH)
    assert release_refusal(budget, {}, "a", ONE) is None
    assert release_refusal(budget, {"a": ONE}, "b", ONE) is None
    refusal = release_refusal(budget, {"a": ONE, "b": ONE}, "c", ONE)
    third = compose([FIT] * 3, DELTA)
    assert f"epsilon={third:.4g} at delta=1e-05, over budget.epsilon={BOTH:g}: raise it" in refusal
    assert "3 releases of dataset d1" in refusal
    assert release_refusal(Budget(epsilon=BOTH * 0.999), {"a": ONE}, "b", ONE)


def test_what_is_made_or_in_flight_is_free_and_another_dataset_is_apart():
    budget = Budget(epsilon=ALONE)
    assert release_refusal(budget, {"a": ONE}, "a", ONE) is None
    assert release_refusal(budget, {"a": ONE}, "b", Release("d2", (FIT,), DELTA)) is None
    assert release_refusal(budget, {"a": ONE}, "b", ONE)


def test_a_smaller_release_may_still_fit():
    budget, small = Budget(epsilon=1.1 * ALONE), Release("d1", (Mechanism(0.01, 10.0, 100),), DELTA)
    assert release_refusal(budget, {"a": ONE}, "b", ONE)
    assert release_refusal(budget, {"a": ONE}, "c", small) is None


def test_the_largest_delta_states_the_total():
    loose, beside = Release("d1", (FIT,), 1e-3), {"a": ONE}
    assert release_refusal(Budget(epsilon=compose([FIT, FIT], 1e-3)), beside, "b", loose) is None
    assert release_refusal(Budget(epsilon=compose([FIT, FIT], 1e-3)), beside, "b", ONE)


@pytest.mark.parametrize("epsilon", [0, 1e6])
def test_no_finite_budget_covers_a_fit_without_noise(epsilon):
    bare = Release("d1", (Mechanism(0.01, 0.0, 1000),), DELTA)
    assert "epsilon=inf" in release_refusal(Budget(epsilon=epsilon), {}, "a", bare)
    assert release_refusal(Budget(), {}, "a", bare) is None
    assert release_refusal(Budget(epsilon=math.inf), {}, "a", bare) is None


def test_the_costly_accountant_is_asked_only_when_the_cheap_one_says_no(monkeypatch):
    asked = []

    def counted(mechanisms, delta, accountant="pld"):
        asked.append(accountant)
        return compose(mechanisms, delta, accountant)

    monkeypatch.setattr(accounting, "compose", counted)
    assert release_refusal(Budget(epsilon=100), {}, "a", ONE) is None
    assert asked == ["rdp"]
    # RDP says 2.10, PLD 1.83: the release fits.
    assert release_refusal(Budget(epsilon=2), {}, "a", ONE) is None
    assert asked == ["rdp", "rdp", "pld"]


def test_the_ledger_says_what_is_made():
    look = line_nonprivate("evaluation", dataset="d1", n_records=9, stage_key="e", trials=[])
    lines = [line(MEANS, "a", "class_means"), line(FIT, "a"), line(FIT, "b"), look, line(Mechanism(0.01, 0.0, 5), "c")]
    assert made(lines) == {"a": Release("d1", (MEANS, FIT), DELTA), "b": ONE}


def test_gpu_hours():
    assert stage_refusal(Budget(), 1e9) is None
    assert stage_refusal(Budget(gpu_hours=2), 7200) is None
    assert stage_refusal(Budget(gpu_hours=0), 0) is None  # no GPU, no hours
    assert "used 2.5 GPU hours, over budget.gpu_hours=2: raise it" in stage_refusal(Budget(gpu_hours=2), 9000)


@pytest.mark.parametrize("field", ["epsilon", "gpu_hours"])
@pytest.mark.parametrize("value", [-1, math.nan, "all"])
def test_limits_that_are_none_are_refused(field, value):
    with pytest.raises(UserError, match=f"budget.{field}={value} is not a limit"):
        Budget(**{field: value})
