"""A generator of somebody else's, in one file outside the package, through a whole trial."""

import dataclasses

import pytest

from wavedp import chain, checks, stages
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.store import Store

TRIAL = TrialConfig(
    data=DataConfig(name="procedural", size=16, n_records=400),
    public=None,
    generator=configure("generator", "class_means_generator:ClassMeans"),
    privacy=PrivacyConfig(epsilon=8.0, delta=1e-5),
    sampling=SamplingConfig(n=20),
    upscaler="bicubic",
    metrics=MetricsConfig(fid_samples=8, reference_samples=8, kid=False, floor=False, downstream_steps=0),
)


def with_privacy(**changes):
    return dataclasses.replace(TRIAL, privacy=dataclasses.replace(TRIAL.privacy, **changes))


def test_its_plan_is_one_gaussian_release_at_the_whole_budget():
    planned = chain.mechanisms(TRIAL)
    assert planned == {"class_means": Mechanism(1, accounting.calibrate(8.0, 1e-5, 1, 1), 1)}
    assert 7.9 < accounting.compose(list(planned.values()), 1e-5) <= 8.0


@pytest.mark.slow
def test_it_runs_to_its_metrics(tmp_path):
    assert checks.check(TRIAL) == []
    store = Store(str(tmp_path))
    artifact, made = stages.make("evaluate", TRIAL, store, "cpu")
    assert made
    assert artifact.json("metrics")
    keys = chain.keys(TRIAL)
    (line,) = store.open("private_fit", keys["private_fit"]).json("ledger")
    assert (line["kind"], line["purpose"], line["steps"]) == ("gaussian", "class_means", 1)
    assert line["epsilon"] <= 8.0
    assert line["release"]
    samples = store.open("coarse_samples", keys["coarse_samples"]).tensors("samples")["images"]
    assert samples.shape == (20, 1, 8, 8)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 32), ("steps", 7), ("max_grad_norm", 2.0), ("learning_rate", 0.1), ("views", 2),
        ("clipping", "normalize"), ("optimizer", "sgd"), ("ema_decay", 0.5), ("trained", "lora"), ("mean_share", 0.3),
    ],
)  # fmt: skip
def test_its_key_stays_with_what_it_does_not_read(field, value):
    other = with_privacy(**{field: value})
    assert chain.keys(other) == chain.keys(TRIAL)
    with pytest.raises(UserError, match=rf"privacy\.{field}={value} is not read by generator=class_means_generator"):
        checks.check(other)


@pytest.mark.parametrize(("field", "value"), [("epsilon", 4.0), ("delta", 1e-6), ("epsilon", float("inf"))])
def test_its_private_fit_s_key_moves_with_the_budget(field, value):
    before, after = chain.keys(TRIAL), chain.keys(with_privacy(**{field: value}))
    moved = [name for name in before if before[name] != after[name]]
    assert moved == ["private_fit", "coarse_samples", "upscale", "evaluate"]


def test_its_own_field_is_in_the_keys():
    other = dataclasses.replace(TRIAL, generator=dataclasses.replace(TRIAL.generator, spread=0.3))
    assert chain.keys(other)["coarse_samples"] != chain.keys(TRIAL)["coarse_samples"]


def test_it_refuses_what_it_cannot_do():
    with pytest.raises(UserError, match="knows nothing without private data"):
        checks.check(with_privacy(epsilon=0.0))
    with pytest.raises(UserError, match=r"generator\.width is not read by generator=class_means_generator:ClassMeans"):
        configure("generator", "class_means_generator:ClassMeans", width=3)


@pytest.mark.parametrize("name", ["Unplanned", "Louder"])
def test_a_fit_that_ran_something_else_than_planned_is_not_released(name, tmp_path):
    """The budget said yes to the plan."""
    config = dataclasses.replace(TRIAL, generator=configure("generator", f"broken_generators:{name}"))
    store = Store(str(tmp_path))
    with pytest.raises(
        UserError, match=r"was planned, and nothing is released: make its `mechanisms` and its fit agree"
    ):
        stages.make("private_fit", config, store, "cpu")
    assert not store.has("private_fit", chain.keys(config)["private_fit"])


def test_its_delta_is_looked_at_though_its_own_check_does_not():
    (warning,) = checks.check(with_privacy(delta=0.01))
    assert "not below 1/N" in warning
