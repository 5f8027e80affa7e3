"""Class means: sensitivity by brute force, noise against its formula, releases that share none."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedp.errors import UserError
from wavedp.privacy.statistics import class_means, class_totals, count_weight, sensitivity

K, SHAPE, D = 3, (1, 2, 2), 4


def make_records(n=60, shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *shape, generator=generator), torch.randint(K, (n,), generator=generator)


def means(images, labels, noise_multiplier=1.0, seed=5, n_classes=K):
    return class_means(images, labels, n_classes, noise_multiplier=noise_multiplier, seed=seed)


def test_without_noise_they_are_the_means_and_an_empty_class_is_grey():
    images, labels = make_records()
    labels[labels == 1] = 2
    exact = means(images, labels, 0.0)
    assert exact.shape == (K, *SHAPE)
    assert exact.dtype == torch.float32
    assert torch.allclose(exact[2], images[labels == 2].mean(0), atol=1e-6)
    assert torch.equal(exact[1], torch.full(SHAPE, 0.5))


@given(
    st.lists(st.floats(0, 1, width=32), min_size=D, max_size=D),
    st.integers(0, K - 1),
    st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_no_record_moves_the_totals_by_more_than_the_sensitivity(pixels, label, n):
    images, labels = make_records(n)
    more = torch.cat([images, torch.tensor(pixels).reshape(1, *SHAPE)]), torch.cat([labels, torch.tensor([label])])
    moved = class_totals(*more, K) - class_totals(images, labels, K)
    assert float(moved.norm()) <= sensitivity(D) * (1 + 1e-12)


def test_black_and_white_images_attain_the_sensitivity():
    images, labels = make_records(7)
    for pixels in itertools.product((0.0, 1.0), repeat=D):
        more = torch.cat([images, torch.tensor(pixels).reshape(1, *SHAPE)]), torch.cat([labels, torch.tensor([1])])
        moved = class_totals(*more, K) - class_totals(images, labels, K)
        assert float(moved.norm()) == pytest.approx(sensitivity(D), rel=1e-12)
        assert moved.count_nonzero() == D + 1  # one class alone


@pytest.mark.parametrize("n_pixels", [4, 16, 196, 3 * 64])
def test_the_count_weight_is_the_best_for_the_worst_pixel(n_pixels):
    def variance(weight):
        return (n_pixels / 4 + weight**2) * (1 + 0.25 / weight**2)

    best = variance(count_weight(n_pixels))
    assert all(best <= variance(count_weight(n_pixels) * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2))
    assert best == pytest.approx(n_pixels / 4 * (1 + 1 / math.sqrt(n_pixels)) ** 2)
    assert sensitivity(n_pixels) == pytest.approx(math.sqrt(n_pixels / 4 + count_weight(n_pixels) ** 2))


def test_noise_has_the_stated_standard_deviation(monkeypatch):
    """Measured where it is added (the totals), and again where it arrives (a mean of many records)."""
    from wavedp.privacy import statistics

    seen, add = [], statistics.noisy_mean

    def spy(sums, *rest):
        (noisy,) = add(sums, *rest)
        seen.append(noisy - sums[0])
        return [noisy]

    monkeypatch.setattr(statistics, "noisy_mean", spy)
    images, labels = torch.full((4000, 1, 40, 40), 0.5), torch.arange(4000) % 2
    found = means(images, labels, noise_multiplier=1.5, n_classes=2)
    std = 1.5 * sensitivity(1600)
    assert float(seen[0].std()) == pytest.approx(std, rel=0.05)
    assert abs(float(seen[0].mean())) < 5 * std / math.sqrt(seen[0].numel())
    assert float(found.std()) == pytest.approx(std / 2000, rel=0.05)


def test_the_same_release_is_the_same_to_the_bit_and_no_other_shares_its_noise():
    """Uncorrelated over 10,000 pixels, whatever differs: σ (epsilon), the seed, the classes or one record."""
    images, labels = torch.full((500, 1, 100, 100), 0.5), torch.zeros(500, dtype=torch.int64)
    one = means(images, labels, 1.0)
    assert torch.equal(one, means(images.clone(), labels.clone(), 1.0))
    torch.manual_seed(1)
    assert torch.equal(one, means(images, labels, 1.0))  # the global generator has no part in it
    changed = images.clone()
    changed[0, 0, 0, 0] = 0.4
    for other in (
        means(images, labels, 2.0),
        means(images, labels, 1.0, seed=6),
        means(images, labels, 1.0, n_classes=4),
        means(changed, labels, 1.0),
        means(images[1:], labels[1:], 1.0),
    ):
        pair = torch.stack([one[0].flatten(), other[0].flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.05
    # Noise shared by two classes would cancel as well.
    assert abs(float(torch.corrcoef(one[:2].flatten(1))[0, 1])) < 0.05


@pytest.mark.parametrize("n", [0, 3])
def test_few_records_give_images_within_range(n):
    found = means(*make_records(n), noise_multiplier=20.0)
    assert found.shape == (K, *SHAPE)
    assert bool(((found >= 0) & (found <= 1)).all())


def test_rounding_beyond_the_range_is_clipped_before_it_is_summed():
    images, labels = torch.full((1, *SHAPE), 1.0005), torch.tensor([0])
    assert torch.equal(class_totals(images, labels, K), class_totals(torch.ones(1, *SHAPE), labels, K))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels: (images * 255, labels), "out of"),
        (lambda images, labels: (images - 0.5, labels), "out of"),
        (lambda images, labels: (images / 0, labels), "not finite"),
        (lambda images, labels: (images * math.nan, labels), "not finite"),
        (lambda images, labels: (images, labels + 1), r"out of 0\.\.2"),
        (lambda images, labels: (images, labels - 1), r"out of 0\.\.2"),
        (lambda images, labels: (images, labels[1:]), "do not match"),
        (lambda images, labels: (images.flatten(1), labels), "do not match"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(UserError, match=message):
        means(*change(*make_records()))
