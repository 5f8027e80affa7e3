"""`dp_kernel`: noisy sums of Poisson batches. Sensitivity by brute force, noise and ledger line held against
dp-accounting, an attack, what reaches the generator, and what is refused. Halved noise must be rejected."""

import dataclasses
import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedp import chain, checks, stages
from wavedp.audit import bounds
from wavedp.audit.evidence import of_noise
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.dp_kernel import PURPOSE
from wavedp.generators.dp_kernel.model import DPKernelModel
from wavedp.generators.dp_merf.model import embedded
from wavedp.privacy import accounting, batch_releases
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.batch_releases import BatchReleases
from wavedp.progress import silent
from wavedp.store import Store
from wavedp.testing.generators import GeneratorSuite

FEW = {"batch": 16, "steps": 3, "features": 40, "channels": 8, "train_batch": 20, "train_learning_rate": 1e-3}
K, SHAPE, D = 3, (1, 2, 2), 4
LEVEL = 1e-4  # of rejecting an honest fit


class TestDPKernel(GeneratorSuite):
    other = {"channels": 16, "features": 20, "bandwidths": 4}  # noqa: RUF012

    def config(self):
        return configure("generator", "dp_kernel", **FEW)


def model(n_classes=K, shape=SHAPE, **changes):
    return DPKernelModel(configure("generator", "dp_kernel", **{**FEW, **changes}), shape, n_classes, "cpu")


def records(n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *SHAPE, generator=generator), torch.randint(K, (n,), generator=generator)


def fitted(made, images, labels, sigma=0.0, seed=5, epsilon=math.inf, **plan):
    config = made.config
    planned = Mechanism(**{"sample_rate": config.batch / max(len(images), 1), "steps": config.steps, **plan},
                        noise_multiplier=sigma)  # fmt: skip
    fit = FitSettings(PrivacyConfig(epsilon=epsilon), {PURPOSE: planned}, seed, None)
    return made.fit_private({}, images, labels, fit, silent)


def releases(made, images, labels, sigma=0.0, seed=5, epsilon=math.inf):
    """What every step of a fit gets from its records, T K (d+1)."""
    found, own = [], BatchReleases.next

    def noted(self, summed):
        found.append(own(self, summed))
        return found[-1]

    with patch.object(BatchReleases, "next", noted):
        fitted(made, images, labels, sigma, seed, epsilon)
    return torch.stack(found)


def everything(images, labels):
    """The first step's totals where all records are in the batch, K (d+1)."""
    return releases(model(batch=len(images), steps=1), images, labels)[0]


@given(st.lists(st.floats(0, 1, width=32), min_size=D, max_size=D), st.integers(0, K - 1), st.integers(3, 12))
@settings(max_examples=25, deadline=None)
def test_a_record_of_a_batch_moves_its_totals_by_the_sensitivity(pixels, label, n):
    """√(1 + w²) with w² = 1 / √40, in one class; the same number is what the noise is a multiple of."""
    images, labels = records(n)
    more = torch.cat([images, torch.tensor(pixels).reshape(1, *SHAPE)]), torch.cat([labels, torch.tensor([label])])
    moved = everything(*more) - everything(images, labels)
    assert float(moved.norm()) == pytest.approx(math.sqrt(1 + 1 / math.sqrt(40)), rel=1e-6)
    assert not moved[torch.arange(K) != label].any()


def test_leaving_out_any_record_moves_the_totals_by_the_sensitivity():
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * D).reshape(-1, *SHAPE)
    labels = torch.arange(len(images)) % K
    whole = everything(images, labels)
    for row in range(len(images)):
        rest = torch.arange(len(images)) != row
        apart = float((whole - everything(images[rest], labels[rest])).norm())
        assert apart == pytest.approx(math.sqrt(1 + 1 / math.sqrt(40)), rel=1e-6)


def test_the_noise_is_the_multiple_of_the_sensitivity_that_was_planned():
    """On every number of every step: with one seed, batches are the same only without noise, so all records are in."""
    images, labels = records(16)
    made = model(features=2000, steps=4)
    noise = releases(made, images, labels, sigma=200.0, epsilon=10.0) - releases(made, images, labels)
    noise /= 200 * math.sqrt(1 + 1 / math.sqrt(2000))
    evidence = of_noise(noise.numpy().ravel())
    assert evidence.p_value > LEVEL, str(evidence)
    rows = noise.flatten(0, 1)
    assert float(torch.corrcoef(rows).fill_diagonal_(0).abs().max()) < 4.5 / math.sqrt(rows.shape[1])
    halved = releases(made, images, labels, sigma=100.0, epsilon=10.0) - releases(made, images, labels)
    assert of_noise((halved / (200 * math.sqrt(1 + 1 / math.sqrt(2000)))).numpy().ravel()).p_value < LEVEL


def test_records_join_batches_independently_with_the_planned_rate():
    images, labels = records(50)
    made = model(batch=10, steps=200)
    counts = releases(made, images, labels)[:, :, -1].sum(1) * 40**0.25
    assert torch.allclose(counts, counts.round(), atol=1e-9)
    assert float(counts.mean()) == pytest.approx(10, abs=4 * math.sqrt(10 * 0.8 / 200))
    assert float(counts.var()) == pytest.approx(10 * 0.8, rel=0.45)  # binomial, not a fixed size


def trial(epsilon=2.0, **changes):
    return TrialConfig(
        data=DataConfig(name="procedural", size=16, n_records=400),
        public=None,
        generator=configure("generator", "dp_kernel", **{**FEW, **changes}),
        privacy=PrivacyConfig(epsilon=epsilon, delta=1e-5),
        sampling=SamplingConfig(n=20),
        upscaler="bicubic",
        metrics=MetricsConfig(fid_samples=8, reference_samples=8, kid=False, floor=False, downstream_steps=0),
    )


@pytest.mark.parametrize("epsilon", [1.0, 10.0])
def test_the_line_in_the_ledger_is_dp_accountings_price_of_the_batches(epsilon, tmp_path):
    asked = trial(epsilon)
    artifact, _ = stages.make("private_fit", asked, Store(str(tmp_path)), "cpu")
    (line,) = artifact.json("ledger")
    assert (line["kind"], line["purpose"]) == ("noisy_batch_sum", PURPOSE)
    assert (line["sample_rate"], line["steps"]) == (16 / 400, 3)
    event = PoissonSampledDpEvent(16 / 400, GaussianDpEvent(line["noise_multiplier"]))
    exact = PLDAccountant().compose(event, 3).get_epsilon(1e-5)
    assert line["epsilon"] == pytest.approx(exact, rel=5e-3)
    assert line["epsilon"] <= epsilon
    assert line["epsilon"] == pytest.approx(epsilon, rel=5e-3)  # no budget is left lying


def test_nothing_of_the_records_reaches_the_generator_but_the_releases():
    """Where every release is replaced by one and the same number, fits to other records end in bit-equal weights."""
    dark, bright = torch.zeros(40, *SHAPE), torch.ones(40, *SHAPE)

    def constant(sums, *rest):
        return [torch.full_like(total, 0.3) for total in sums]

    with patch.object(batch_releases, "noisy_mean", constant):
        one = fitted(model(), dark, torch.zeros(40).long()).weights
        two = fitted(model(), bright, torch.full((40,), 2)).weights
    assert all(torch.equal(one[name], two[name]) for name in one)
    three = fitted(model(), bright, torch.full((40,), 2)).weights
    assert not all(torch.equal(one[name], three[name]) for name in one)


@pytest.mark.parametrize("size", [196, 784])
def test_features_have_the_mixture_of_kernels_as_their_mean(size):
    """(1/5) Σ exp(-|x - y|² / 2s²), s = 1 .. 16 for 784 numbers in [-1, 1]; half of that for [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(size, generator=generator)
    near = torch.stack([x, (x + 0.02 * torch.randn(size, generator=generator)), torch.rand(size, generator=generator)])
    made = model(shape=(1, 1, size), features=4000)
    products = []
    for step in range(5):
        features = embedded(near, made.frequencies(step)).double()
        products.append(features @ features.T)
        assert torch.allclose(features.norm(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-6)
    squares = (torch.cdist(near.double(), near.double()) ** 2).numpy() * 784 / size * 4
    kernel = np.mean([np.exp(-squares / (2 * s**2)) for s in (1, 2, 4, 8, 16)], axis=0)
    assert np.allclose(torch.stack(products).mean(0), kernel, atol=0.015)
    assert 0.05 < kernel[0, 2] < 0.5 < kernel[0, 1] < 0.95  # the scales matter
    assert not torch.equal(made.frequencies(0), made.frequencies(1))


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_training_brings_images_of_each_class_to_its_records(sigma):
    n = 600
    labels = (torch.arange(n) % 3 > 0).long()  # of the one class twice as many
    sides = torch.stack([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
    light = 0.5 + 0.4 * torch.rand(n, 1, 1, generator=torch.Generator().manual_seed(0))
    images = (sides[labels].repeat_interleave(3, 1)[:, None, :] * light).expand(n, 6, 6)[:, None]
    made = model(2, (1, 6, 6), batch=120, steps=200, features=400, train_learning_rate=5e-3, train_batch=40)
    found = fitted(made, images, labels, sigma, epsilon=math.inf if sigma == 0 else 1e3)
    drawn = made.sample(found.weights, torch.arange(200) % 2, SamplingConfig(), 0, silent)
    for label in (0, 1):
        own = images[labels == label].mean(0)
        assert float((drawn[label::2].mean(0) - own).abs().mean()) < 0.1


def test_a_fit_draws_batches_and_noise_of_its_own():
    images, labels = records(60)
    made = model(features=400)
    one, other = (releases(made, images, labels, seed=seed) for seed in (5, 6))
    assert not torch.equal(one, other)
    changed = images.clone()
    changed[0, 0, 0, 0] = 0.4
    again, moved = releases(made, images, labels), releases(made, changed, labels)
    assert torch.equal(one, again)
    assert float((one - moved)[:, :, -1].abs().max()) > 0  # another batch altogether


# Sabotage


DRAWS = 600


def attacked(sigma, steps, scale):
    """Scores of an attacker who knows all records but one, of releases that hold all records at every step. scale: of
    the noise that is drawn."""
    images, _ = records(6)
    omega = model().frequencies(0)
    pixels = torch.cat([torch.ones(1, *SHAPE), images]).flatten(1)
    labels = torch.zeros(7, dtype=torch.long)

    def summed(part):
        total = embedded(part, omega).double().sum(0)
        return torch.cat([total, total.new_tensor([40**-0.25 * len(part)])])

    def releases(first, seed, noise):
        given = pixels[first:], labels[first:], 1, 1.0, math.sqrt(1 + 1 / math.sqrt(40)), noise
        batches = BatchReleases(*given, torch.Generator(), torch.Generator().manual_seed(seed))
        return torch.stack([batches.next(summed) for _ in range(steps)])

    included, excluded = releases(0, 0, 0.0)[0], releases(1, 0, 0.0)[0]
    direction = included - excluded
    std = sigma * float(direction.norm()) * math.sqrt(steps)
    direction = direction / direction.norm()
    return bounds.Scores(*(
        np.array([
            float(((releases(first, first * DRAWS + seed, scale * sigma) - excluded) * direction).sum()) / std
            for seed in range(DRAWS)
        ])
        for first in (0, 1)
    ))  # fmt: skip


@pytest.mark.parametrize(("scale", "rejected"), [(1.0, False), (0.5, True)])
def test_an_attack_stays_below_the_claim_and_finds_halved_noise(scale, rejected):
    steps, sigma = 2, 0.8
    claim = accounting.compose([Mechanism(1, sigma, steps)], 1e-5)
    scores = attacked(sigma, steps, scale)
    threshold = bounds.best_thresholds(math.sqrt(steps) / sigma, DRAWS, 1e-5, 1 - LEVEL).mu
    bound = bounds.gaussian(scores, threshold, 1e-5, 1 - LEVEL)
    assert (bound > claim) is rejected
    assert bound > 0.5 * claim  # close to the claim, so that the attack could tell


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sample_rate": 0.5},
            "3 steps at sample rate 0.5 were planned, and 3 batches of 16 from 60 records would run",
        ),
        ({"steps": 4}, "4 steps at sample rate 0.2667 were planned, and 3 batches"),
    ],
)
def test_a_plan_for_other_batches_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        fitted(model(), *records(), **changes)


def test_noise_that_overspends_the_budget_is_refused():
    with pytest.raises(UserError, match=r"noise_multiplier=0.5 would spend epsilon=.* more than privacy\.epsilon=1.0"):
        fitted(model(), *records(), sigma=0.5, epsilon=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels: (images * 255, labels), "out of"),
        (lambda images, labels: (images * math.nan, labels), "not finite"),
        (lambda images, labels: (images, labels + 1), r"out of 0\.\.2"),
        (lambda images, labels: (images, labels[1:]), "one label for each image"),
    ],
)
def test_records_that_no_sensitivity_covers_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        fitted(model(), *change(*records()))


def test_a_training_that_diverges_is_refused():
    with pytest.raises(UserError, match="lower train_learning_rate"):
        fitted(model(train_learning_rate=1e38), *records())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 42}, r"features=42 are not as many .* of 5 bandwidths: use a multiple of 10"),
        ({"batch": 401}, r"batch=401 cannot be drawn from 400 records: use 1 <= batch <= 400"),
        ({"channels": 12}, "channels=12 has no groups of equal size"),
        ({"train_batch": 19}, "train_batch=19 has less than two images for each of 10 classes"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    def planned(asked):
        return checks.check(asked), chain.mechanisms(asked)

    assert planned(trial())[0] == []
    with pytest.raises(UserError, match=message):
        planned(trial(**changes))


def test_without_a_budget_it_is_refused_and_sections_that_it_does_not_read_too():
    assert checks.check(trial()) == []
    with pytest.raises(UserError, match=r"privacy\.epsilon=0 pays for none: use epsilon > 0"):
        checks.check(trial(0.0))
    asked = trial()
    other = dataclasses.replace(asked, privacy=dataclasses.replace(asked.privacy, steps=7))
    with pytest.raises(UserError, match=r"privacy\.steps=7 is not read by generator=dp_kernel"):
        checks.check(other)
