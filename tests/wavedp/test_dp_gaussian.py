"""`dp_gaussian`: its vectorisation, the edge of its noise, what it repairs. Privacy is in test_one_release.py."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from wavedp import checks
from wavedp.config import DataConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators.dp_gaussian import model as room
from wavedp.generators.dp_gaussian.model import DPGaussianModel
from wavedp.progress import silent
from wavedp.testing.generators import GeneratorSuite

SIDE = 12
D = SIDE**2


class TestDPGaussian(GeneratorSuite):
    def config(self):
        return configure("generator", "dp_gaussian")

    def trial(self, base):
        """Records enough for eigenvalues that stand out of the noise: without one, seeds make no difference."""
        return dataclasses.replace(base, data=dataclasses.replace(base.data, n_records=2000))


class TestDPGaussianClipped(GeneratorSuite):
    """Whole images, clipped records, eigenvalues of noise kept."""

    def config(self):
        return configure("generator", "dp_gaussian", clip_rms=0.3, edge=0.0)

    def trial(self, base):
        privacy = dataclasses.replace(base.privacy, noise_source="seeded", delta=1e-4)
        return dataclasses.replace(base, level=0, upscaler=configure("upscaler", "identity"), privacy=privacy)


def model(n_classes=1, **changes):
    return DPGaussianModel(configure("generator", "dp_gaussian", **changes), (1, SIDE, SIDE), n_classes)


def weights(pixels, labels, noise_multiplier=0.0, n_classes=1, seed=0):
    """What a fit releases, by another draw of noise."""
    made = model(n_classes)
    exact = room.moments(pixels, labels, n_classes, made.radius, room.constant(made.radius))
    std = noise_multiplier * room.sensitivity(made.radius)
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"moments": exact + std * noise, "noise_std": torch.tensor(std)}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_vectors_are_as_long_as_their_matrices_and_give_them_back(size):
    a, b = torch.randn(2, size, size, dtype=torch.float64)
    a, b = a + a.T, b + b.T
    assert len(room.vector(a)) == size * (size + 1) // 2
    assert float(room.vector(a) @ room.vector(b)) == pytest.approx(float((a * b).sum()))
    assert torch.allclose(room.matrix(room.vector(a)), a, atol=1e-12)


def test_noise_of_the_vector_is_a_symmetric_matrix_with_half_the_variance_off_the_diagonal():
    numbers = torch.randn(200 * 201 // 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = room.matrix(numbers)
    assert torch.equal(noise, noise.T)
    off = noise[*torch.triu_indices(200, 200, 1)]
    assert float(off.var()) == pytest.approx(0.5, rel=0.05)
    assert float(noise.diagonal().var()) == pytest.approx(1, rel=0.4)


def test_the_constant_coordinate_is_the_best_for_the_worst_mean():
    """Largest edge over means of norm up to R, times the sensitivity, for other constants."""
    radius = 7.0
    norms = np.linspace(0.01, 1, 60) * radius

    def worst(weight):
        return max(room.noise_edge(196, 1.0, norm, weight, radius**2 + weight**2) for norm in norms)

    best = room.constant(radius)
    assert room.sensitivity(radius) == pytest.approx(radius**2 + best**2)
    assert room.sensitivity(radius) == pytest.approx(4 / 3 * 49)
    assert all(worst(best) <= worst(best * factor) for factor in (0.3, 0.8, 0.95, 1.05, 1.2, 2))


@pytest.mark.parametrize(("contrast", "ratio"), [(0.0, 1.0), (0.25, 1.75), (0.5, 4.0)])
def test_the_edge_is_the_largest_eigenvalue_that_noise_alone_has(contrast, ratio):
    """Equal records have no covariance, so that all of it is noise: about a mean of norm 0, R/2 and R."""
    n = 50_000
    pixels = 0.5 + contrast * torch.tensor([1.0, -1.0]).repeat(D // 2).expand(1, D)
    made = model()
    weight = room.constant(made.radius)
    one = weights(pixels, torch.zeros(1, dtype=torch.long))["moments"]
    assert 1 + (contrast * math.sqrt(D) / weight) ** 2 == pytest.approx(ratio)
    found, dropped = [], []
    for seed in range(8):
        std = room.sensitivity(made.radius)
        noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        noisy = room.matrix((n * one + std * noise)[0])
        _, values, _ = room.repaired(noisy, weight, std, 0.0)
        edge = room.noise_edge(D, n, contrast * math.sqrt(D), weight, std)
        found.append(float(values[-1]) / edge)
        dropped.append(int(room.repaired(noisy, weight, std, 1.15)[1].count_nonzero()))
    assert np.mean(found) == pytest.approx(1, abs=0.06)
    assert not any(dropped)


def correlated(n=4000, seed=0):
    """Records of one class about a mean, with two strong directions in [0, 1]."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((D, 2)))[0].T
    mean = 0.5 + 0.1 * np.sin(np.arange(D))
    x = mean + rng.uniform(-1, 1, (n, 2)) * [1.2, 0.8] @ basis + 0.01 * rng.standard_normal((n, D))
    assert (x.min(), x.max()) > (0, 0)
    return torch.tensor(x.clip(0, 1), dtype=torch.float32)


def test_without_noise_the_distribution_has_numpys_mean_and_covariance():
    pixels = torch.cat([correlated(), torch.rand(7, D)])
    labels = torch.cat([torch.ones(4000), torch.zeros(7)]).long()
    mean, values, vectors = model(2).distribution(weights(pixels, labels, n_classes=2), 1)
    own = pixels[labels == 1].double().numpy()
    assert np.allclose(mean.numpy(), own.mean(0) - 0.5, atol=1e-9)
    covariance = ((vectors * values) @ vectors.T).numpy()
    assert np.allclose(covariance, np.cov(own.T, ddof=0), atol=1e-9)


def test_under_noise_the_directions_above_it_stay_and_the_others_are_dropped():
    pixels, labels = correlated(60_000), torch.zeros(60_000, dtype=torch.long)
    noisy = weights(pixels, labels, noise_multiplier=4.0)
    mean, values, vectors = model().distribution(noisy, 0)
    assert int(values.count_nonzero()) == 2
    own = np.cov(pixels.double().numpy().T, ddof=0)
    true_values, true_vectors = np.linalg.eigh(own)
    assert np.allclose(values[-2:], true_values[-2:], rtol=0.15)
    overlap = np.linalg.svd(true_vectors[:, -2:].T @ vectors[:, -2:].numpy())[1]
    assert overlap.min() > 0.95
    assert float((mean - (pixels.double().mean(0) - 0.5)).abs().max()) < 0.02
    everything = model(edge=0.0).distribution(noisy, 0)[1]
    assert 0.3 * D < int(everything.count_nonzero()) < 0.7 * D  # half of the noise is positive


def test_samples_have_the_moments_of_their_class():
    pixels = torch.cat([correlated(), 0.3 + 0.2 * torch.rand(4000, D)])
    labels = torch.arange(2).repeat_interleave(4000)
    made = model(2)
    found = weights(pixels, labels, n_classes=2)
    images = made.sample(found, torch.arange(8000) % 2, SamplingConfig(), 3, silent)
    assert images.shape == (8000, 1, SIDE, SIDE)
    for label in (0, 1):
        drawn, own = images[label::2].flatten(1), pixels[labels == label]
        assert float((drawn.mean(0) - own.mean(0)).abs().max()) < 0.02
        assert np.allclose(np.cov(drawn.T), np.cov(own.T), atol=0.02 * float(own.var(0).max()) + 1e-3)


def test_where_no_eigenvalue_stays_every_sample_is_the_mean():
    found = weights(correlated(), torch.zeros(4000).long(), noise_multiplier=50.0)
    mean, values, _ = model().distribution(found, 0)
    assert not values.any()
    drawn = model().sample(found, torch.zeros(3, dtype=torch.long), SamplingConfig(), 3, silent).flatten(1)
    assert torch.allclose(drawn, (0.5 + mean).clamp(0, 1).float().expand(3, -1), atol=1e-6)


def test_records_are_clipped_to_their_norm_under_privacy_only():
    """By direction and length, and not at all at the default."""
    pixels = torch.stack([torch.ones(D), 0.5 + 0.2 * torch.ones(D), torch.full((D,), 0.5)])
    short, weight = 0.3 * SIDE, 2.0
    for row, length in ((0, 0.3), (1, 0.2), (2, 0.0)):
        (found,) = room.moments(pixels[row : row + 1], torch.tensor([0]), 1, short, weight)
        assert torch.allclose(room.matrix(found)[:-1, -1], torch.full((D,), 2 * length, dtype=torch.float64), atol=1e-6)
    whole = room.moments(pixels, torch.zeros(3).long(), 1, 0.5 * SIDE, weight)
    assert torch.allclose(whole, room.moments(pixels, torch.zeros(3).long(), 1, math.inf, weight), rtol=1e-12)


def test_images_that_are_too_large_for_a_matrix_are_refused():
    trial = TrialConfig(
        data=DataConfig(name="procedural", size=160, n_records=400), public=None, generator="dp_gaussian",
        upscaler="bicubic",
    )  # fmt: skip
    with pytest.raises(UserError, match=r"6,400 at level=1 \(C, h, w = \(1, 80, 80\)\) are more than 4,096: use a hi"):
        checks.check(trial)
    assert checks.check(dataclasses.replace(trial, level=2)) == []
