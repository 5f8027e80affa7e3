"""One Gaussian release of class sums: what every generator of one release must show, for each of them.

Sensitivity by brute force, noise and ledger line held against dp-accounting, an attack with a worst-case record, and
what is refused. The attack and the noise must reject a fit whose noise is halved."""

import dataclasses
import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedp import chain, checks, registry, stages
from wavedp.audit import bounds
from wavedp.audit.evidence import of_noise
from wavedp.config import (
    DataConfig,
    MetricsConfig,
    PrivacyConfig,
    SamplingConfig,
    TrialConfig,
    configure,
    to_dict,
    trial_of,
)
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.dp_gaussian.model import DPGaussianModel
from wavedp.generators.dp_merf.model import DPMERFModel
from wavedp.generators.dp_ntk.model import DPNTKModel
from wavedp.privacy import ledger, one_release
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.randomness import SecureGenerator
from wavedp.progress import silent
from wavedp.store import Store

K, SHAPE, D = 3, (1, 2, 2), 4
TRAINED = {"channels": 8, "train_steps": 2, "train_batch": 20}
SMALL = {"dp_gaussian": {}, "dp_merf": {"features": 12, **TRAINED}, "dp_ntk": {"hidden": 2, **TRAINED}}
METHODS = sorted(SMALL)
RELEASED = {"dp_gaussian": "moments", "dp_merf": "sums", "dp_ntk": "sums"}
# Options with which a release has thousands of numbers for images of D = 64, and how many features.
MANY = {"dp_gaussian": ({}, 0), "dp_merf": ({"features": 2000}, 2000), "dp_ntk": ({"hidden": 30}, 30 * (64 + 2) + 1)}
# Of fields that cost no ε, and of those that are in the release; each at another value than in SMALL.
FREE = {
    "dp_gaussian": {"edge": 2.0},
    "dp_merf": (retrained := {"channels": 16, "train_steps": 9, "train_batch": 40, "train_learning_rate": 0.1}),
    "dp_ntk": retrained,
}
PAID = {
    "dp_gaussian": {"clip_rms": 0.25},
    "dp_merf": {"features": 6, "kernel_variance": 50.0},
    "dp_ntk": {"hidden": 5},
}
LEVEL = 1e-4  # of rejecting an honest fit


def config(name, **changes):
    return configure("generator", name, **{**SMALL[name], **changes})


def model(name, shape=SHAPE, n_classes=K, **changes):
    if name == "dp_gaussian":
        return DPGaussianModel(config(name, **changes), shape, n_classes)
    made = {"dp_merf": DPMERFModel, "dp_ntk": DPNTKModel}[name]
    return made(config(name, **changes), shape, n_classes, "cpu")


def sensitivity(name, size=D, features=None):
    """Written out, not asked of the code: R = √D / 2 and w² = R²/3; or w² = 1/√d, by default d of the small models."""
    if name == "dp_gaussian":
        return 4 / 3 * size / 4
    return math.sqrt(1 + 1 / math.sqrt(features or {"dp_merf": 12, "dp_ntk": 2 * (D + 2) + 1}[name]))


def records(n=60, shape=SHAPE, seed=0, n_classes=K):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *shape, generator=generator), torch.randint(n_classes, (n,), generator=generator)


def released(made, images, labels, noise_multiplier=0.0, seed=5, source="seeded"):
    """The noisy totals, and the fit."""
    name = made.config.name
    purpose = registry.find("generator", name).purpose
    planned = {purpose: Mechanism(1, noise_multiplier, 1)}
    fit = FitSettings(PrivacyConfig(noise_source=source), planned, seed, None)
    done = made.fit_private({}, images, labels, fit, silent)
    assert done.mechanisms == planned
    return done.weights[RELEASED[name]], done


def clipped_totals(made, images, labels):
    """Exact totals of records that are clipped as in a private fit."""
    with patch.object(one_release, "noisy_mean", lambda sums, *rest: sums):
        return released(made, images, labels, 1.0)[0]


@given(
    st.sampled_from(METHODS),
    st.lists(st.floats(0, 1, width=32), min_size=D, max_size=D),
    st.integers(0, K - 1),
    st.integers(0, 12),
)
@settings(max_examples=100, deadline=None)
def test_no_record_moves_the_totals_of_all_classes_by_more_than_the_sensitivity(name, pixels, label, n):
    images, labels = records(n)
    more = torch.cat([images, torch.tensor(pixels).reshape(1, *SHAPE)]), torch.cat([labels, torch.tensor([label])])
    made = model(name)
    moved = clipped_totals(made, *more) - clipped_totals(made, images, labels)
    assert float(moved.norm()) <= sensitivity(name) * (1 + 1e-6)
    assert not moved[torch.arange(K) != label].any()  # bit-equal


@pytest.mark.parametrize("name", METHODS)
def test_leaving_out_any_record_is_hidden_and_some_record_attains_the_sensitivity(name):
    """Every neighbour of a dataset that holds all black and white images."""
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * D).reshape(-1, *SHAPE)
    labels, made = torch.arange(len(images)) % K, model(name)
    whole = clipped_totals(made, images, labels)
    distances = [
        float((whole - clipped_totals(made, images[rest], labels[rest])).norm())
        for rest in (torch.arange(len(images)) != row for row in range(len(images)))
    ]
    assert max(distances) == pytest.approx(sensitivity(name), rel=1e-6)
    assert min(distances) == pytest.approx(sensitivity(name), rel=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_classes_compose_in_parallel(name):
    """A class's totals are a function of its own records, and a plan costs the same for any number of classes."""
    images, labels = records(40)
    made = model(name)
    whole = clipped_totals(made, images, labels)
    for label in range(K):
        own = labels == label
        assert torch.equal(clipped_totals(made, images[own], labels[own])[label], whole[label])
    plans = []
    for n_classes in (1, 2, 10):
        with patch.object(chain.data, "n_classes", lambda *_, count=n_classes: count):
            plans.append(chain.mechanisms(trial(name)))
    assert plans[0] == plans[1] == plans[2]
    (planned,) = plans[0].values()
    assert (planned.sample_rate, planned.steps) == (1, 1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n_classes", [1, 3])
def test_noise_has_the_planned_standard_deviation_on_every_number(name, n_classes):
    images, labels = records(30, (1, 8, 8), n_classes=n_classes)
    options, features = MANY[name]
    made, size = model(name, (1, 8, 8), n_classes, **options), sensitivity(name, 64, features)
    noise = (released(made, images, labels, 1.7)[0] - clipped_totals(made, images, labels)) / (1.7 * size)
    for row in noise:
        assert float(row.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * len(row)))
        assert abs(float(row.mean())) < 4 / math.sqrt(len(row))
    if n_classes > 1:  # noise that two classes share would cancel
        pairs = torch.corrcoef(noise)
        assert float(pairs.fill_diagonal_(0).abs().max()) < 4.5 / math.sqrt(noise.shape[1])


def trial(name, **privacy):
    return TrialConfig(
        data=DataConfig(name="procedural", size=16, n_records=400),
        public=None,
        generator=config(name),
        privacy=PrivacyConfig(**{"epsilon": 2.0, "delta": 1e-5, **privacy}),
        sampling=SamplingConfig(n=20),
        upscaler="bicubic",
        metrics=MetricsConfig(fid_samples=8, reference_samples=8, kid=False, floor=False, downstream_steps=0),
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("epsilon", [0.2, 1.0, 10.0])
def test_the_line_in_the_ledger_is_dp_accountings_price_of_the_noise(name, epsilon, tmp_path):
    """By its analytic Gaussian mechanism, and by its accountant."""
    store, asked = Store(str(tmp_path)), trial(name, epsilon=epsilon)
    artifact, _ = stages.make("private_fit", asked, store, "cpu")
    (line,) = artifact.json("ledger")
    purpose = registry.find("generator", name).purpose
    assert (line["kind"], line["purpose"], line["sample_rate"], line["steps"]) == ("gaussian", purpose, 1, 1)
    sigma = line["noise_multiplier"]
    assert chain.mechanisms(asked) == {purpose: Mechanism(1, sigma, 1)}
    exact = get_epsilon_gaussian(sigma, 1e-5)
    assert exact <= line["epsilon"] <= epsilon  # an upper bound, within the budget
    assert line["epsilon"] == pytest.approx(exact, rel=2e-3)
    assert line["epsilon"] == pytest.approx(epsilon, rel=3e-3)  # no budget is left lying
    by_events = PLDAccountant().compose(GaussianDpEvent(sigma)).get_epsilon(1e-5)
    assert line["epsilon"] == pytest.approx(by_events, rel=2e-3)
    assert ledger.composed_epsilon([line]) == {line["dataset"]: pytest.approx(line["epsilon"])}
    if name == "dp_gaussian":  # the noise that samples are repaired for is the noise that was drawn
        assert float(artifact.tensors("weights")["noise_std"]) == pytest.approx(sigma * 4 / 3 * 64 / 4)


@pytest.mark.parametrize("name", METHODS)
def test_without_privacy_a_line_says_so_and_the_totals_are_exact(name, tmp_path):
    artifact, _ = stages.make("private_fit", trial(name, epsilon=math.inf), Store(str(tmp_path)), "cpu")
    (line,) = artifact.json("ledger")
    assert (line["kind"], line["epsilon"], line["noise_multiplier"]) == ("nonprivate", "inf", 0.0)
    images, labels = records(50)
    made = model(name)
    assert torch.equal(released(made, images, labels)[0], clipped_totals(made, images, labels))  # 0.5 clips none


@pytest.mark.parametrize("name", METHODS)
def test_what_follows_the_release_makes_no_other_release(name):
    before = chain.keys(trial(name))
    for changes, first in ((FREE[name], "coarse_samples"), (PAID[name], "private_fit")):
        for field, value in changes.items():
            other = dataclasses.replace(trial(name), generator=config(name, **{field: value}))
            after = chain.keys(other)
            moved = [stage for stage in before if before[stage] != after[stage]]
            assert moved[0] == first, field


@pytest.mark.parametrize("name", METHODS)
def test_the_same_release_is_the_same_to_the_bit_and_no_other_shares_its_noise(name):
    images, labels = records(30, (1, 8, 8))
    options = {key: 2 * value for key, value in MANY[name][0].items()}
    made = model(name, (1, 8, 8), **options)

    def noise(images, labels, z=1.0, seed=5, of=made):
        noisy, done = released(of, images, labels, z, seed)
        return (noisy - clipped_totals(of, images, labels)) / z, *done.releases.values()

    one, identity = noise(images, labels)
    torch.manual_seed(1)  # the global generator has no part in it
    again = noise(images.clone(), labels.clone())
    assert torch.equal(one, again[0])
    assert again[1] == identity
    changed = images.clone()
    changed[0, 0, 0, 0] = 0.4
    another = {"dp_gaussian": {"clip_rms": 0.4}, "dp_merf": {"kernel_variance": 50.0}}.get(name)
    for other in (
        noise(images, labels, z=2.0),
        noise(images, labels, seed=6),
        noise(changed, labels),
        noise(images[1:], labels[1:]),
        *([noise(images, labels, of=model(name, (1, 8, 8), **{**options, **another}))] if another else []),
    ):
        assert other[1] != identity
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other[0].flatten()]))[0, 1])) < 0.05


@pytest.mark.parametrize("name", METHODS)
def test_secure_noise_is_another_release_every_time(name):
    images, labels = records(30, (1, 8, 8))
    options, features = MANY[name]
    made = model(name, (1, 8, 8), **options)
    (one, first), (two, second) = (released(made, images, labels, 1.0, source="secure") for _ in range(2))
    assert first.releases != second.releases
    exact = clipped_totals(made, images, labels)
    pair = torch.stack([(one - exact).flatten(), (two - exact).flatten()])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.07
    size = sensitivity(name, 64, features)
    assert float(pair.std()) == pytest.approx(size, rel=0.05)
    with patch.object(SecureGenerator, "name", lambda self: pytest.fail("seeded noise has no key")):
        released(made, images, labels, 1.0)


# Sabotage


CLAIM = 10.0  # where few draws tell much


def evidence(name, draws=2000):
    """Of the noise, and a lower bound on ε from an attacker who knows all records but a worst-case one."""
    purpose = registry.find("generator", name).purpose
    made, claim = model(name), chain.mechanisms(trial(name, epsilon=CLAIM))[purpose]
    images, labels = records(6)
    canary = torch.ones(1, *SHAPE)
    with_it = torch.cat([images, canary]), torch.cat([labels, torch.tensor([1])])
    exact = clipped_totals(made, images, labels)
    direction = clipped_totals(made, *with_it) - exact
    length, std = float(direction.norm()), claim.noise_multiplier * sensitivity(name)

    def noises(given, first):
        return torch.stack(
            [(released(made, *given, claim.noise_multiplier, first + seed)[0] - exact) / std for seed in range(draws)]
        )

    included, excluded = noises(with_it, 10_000), noises((images, labels), 90_000)
    scores = bounds.Scores(*((x * direction).sum((1, 2)).numpy() / length for x in (included, excluded)))
    mu = 1 / claim.noise_multiplier
    threshold = bounds.best_thresholds(mu, draws, 1e-5, 1 - LEVEL).mu
    return of_noise(excluded.numpy().ravel()), bounds.gaussian(scores, threshold, 1e-5, 1 - LEVEL)


@pytest.mark.parametrize("name", METHODS)
def test_an_attack_on_a_worst_case_record_stays_below_the_claim(name):
    noise, bound = evidence(name)
    assert noise.p_value > LEVEL, str(noise)
    assert 0.8 * CLAIM < bound <= CLAIM  # close to the claim, so that the attack could tell


@pytest.mark.parametrize("name", METHODS)
def test_halved_noise_is_rejected_by_its_size_and_by_the_attack(name):
    own = one_release.noisy_mean

    def halved(sums, noise_multiplier, *rest):
        return own(sums, noise_multiplier / 2, *rest)

    with patch.object(one_release, "noisy_mean", halved):
        noise, bound = evidence(name)
    assert noise.p_value < LEVEL, str(noise)
    assert bound > CLAIM


@pytest.mark.parametrize("name", METHODS)
def test_an_understated_sensitivity_is_rejected_by_the_attack(name):
    own = one_release.release

    def understated(*given, sensitivity, **rest):
        return own(*given, sensitivity=sensitivity / 2, **rest)

    with patch.object(one_release, "release", understated):
        _, bound = evidence(name)
    assert bound > CLAIM


# Refusals


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels: (images * 255, labels), "out of"),
        (lambda images, labels: (images - 0.5, labels), "out of"),
        (lambda images, labels: (images / 0, labels), "not finite"),
        (lambda images, labels: (images * math.nan, labels), "not finite"),
        (lambda images, labels: (images, labels + 1), r"out of 0\.\.2"),
        (lambda images, labels: (images, labels - 1), r"out of 0\.\.2"),
        (lambda images, labels: (images, labels[1:]), "one label for each image"),
        (lambda images, labels: (images.flatten(1), labels), "one label for each image"),
        (lambda images, labels: (images, torch.rand(len(images), 2, 7)), "one label for each image"),
        (lambda images, labels: (images, torch.rand(len(images))), "one label for each image"),
    ],
)
def test_records_that_no_sensitivity_covers_are_refused(name, change, message):
    with pytest.raises(UserError, match=message):
        released(model(name), *change(*records()), 1.0)


@pytest.mark.parametrize("name", METHODS)
def test_rounding_beyond_the_range_is_clipped_before_it_is_summed(name):
    made, label = model(name), torch.tensor([0])
    beyond = clipped_totals(made, torch.full((1, *SHAPE), 1.0005), label)
    assert torch.equal(beyond, clipped_totals(made, torch.ones(1, *SHAPE), label))


@pytest.mark.parametrize("name", METHODS)
def test_trials_that_it_cannot_do_are_refused(name):
    assert checks.check(trial(name)) == []
    with pytest.raises(UserError, match=r"privacy\.epsilon=0 pays for none: use epsilon > 0"):
        checks.check(trial(name, epsilon=0.0))
    for field, value in (("batch_size", 32), ("steps", 7), ("max_grad_norm", 2.0), ("views", 2), ("mean_share", 0.3)):
        with pytest.raises(UserError, match=rf"privacy\.{field}={value} is not read by generator={name}"):
            checks.check(trial(name, **{field: value}))
    assert checks.check(trial(name, noise_source="secure")) == []
    (warning,) = checks.check(trial(name, delta=0.01))
    assert "not below 1/N" in warning
    values = to_dict(trial(name))
    values["generator"]["conditioning"] = "text"
    with pytest.raises(UserError, match=rf"generator\.conditioning is not read by generator={name}"):
        configure("generator", name, conditioning="text")
    assert not hasattr(trial_of(values).generator, "conditioning")  # of a preset that serves several methods


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n", [0, 3])
def test_few_records_give_images_within_range(name, n):
    made = model(name)
    _, done = released(made, *records(n), 20.0)
    images = made.sample(done.weights, torch.arange(6) % K, SamplingConfig(), 0, silent)
    assert images.shape == (6, *SHAPE)
    assert bool(((images >= 0) & (images <= 1)).all())
    assert np.isfinite(images.numpy()).all()
