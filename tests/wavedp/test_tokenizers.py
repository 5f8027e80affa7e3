"""The scalar tokenizer: error bounds of its docstring, order of scales, refused settings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedp.config import configure
from wavedp.errors import UserError
from wavedp.tokenizers import build
from wavedp.tokenizers.scalar.model import companded
from wavedp.wavelets import coarse, decompose

FINE = {"bins": 256, "digits": 2, "detail_bins": 101, "detail_range": 0.5, "companding": 30.0, "detail_digits": "apart"}


@settings(max_examples=25, deadline=None)
@given(
    side=st.sampled_from([7, 8, 14, 16, 28, 32]),
    channels=st.sampled_from([1, 3]),
    bins=st.integers(2, 64),
    detail_bins=st.sampled_from([3, 5, 9]),
    seed=st.integers(0, 99),
)
def test_error_of_each_coefficient_is_within_the_documented_bound(side, channels, bins, detail_bins, seed):
    torch.manual_seed(seed)
    images = torch.rand(3, channels, side, side) * 0.5 + 0.25  # far enough from 0 and 1 that decode clips nothing
    config = configure("tokenizer", "scalar", bins=bins, detail_bins=detail_bins, detail_range=0.5)
    tokenizer = build(config, (channels, side, side), 0, {})
    codes = tokenizer.encode(images)
    assert codes.shape == (3, tokenizer.length)
    for span in tokenizer.spans:
        part = codes[:, span.start : span.stop]
        assert part.min() >= 0
        assert part.max() < span.size
    before = decompose(images, tokenizer.depth)
    after = decompose(tokenizer.decode(codes), tokenizer.depth)
    clipped = tokenizer.decode(codes)
    if clipped.min() <= 0 or clipped.max() >= 1:
        return
    scale = 2**tokenizer.depth
    assert (before.approximation - after.approximation).abs().max() / scale <= 0.5 / (bins - 1) + 1e-5
    for j, (a, b) in enumerate(zip(before.details, after.details, strict=True)):
        assert (a - b).abs().max() / 2 ** (tokenizer.depth - j) <= 0.5 / (detail_bins - 1) + 1e-5


def test_codes_survive_a_round_trip():
    tokenizer = build(configure("tokenizer", "scalar"), (1, 14, 14), 0, {})
    # Mid-range approximation, so that decoding stays inside [0, 1] and nothing is clipped.
    images = 0.4 + 0.2 * torch.rand(8, 1, 14, 14)
    codes = tokenizer.encode(images)
    assert torch.equal(tokenizer.encode(tokenizer.decode(codes)), codes)


def test_black_stays_black_and_white_stays_white():
    tokenizer = build(configure("tokenizer", "scalar"), (1, 28, 28), 0, {})
    for value in (0.0, 1.0):
        image = torch.full((1, 1, 28, 28), value)
        torch.testing.assert_close(tokenizer.decode(tokenizer.encode(image)), image)


def test_scales_come_coarse_to_fine_and_a_finer_change_leaves_coarser_codes():
    tokenizer = build(configure("tokenizer", "scalar"), (1, 28, 28), 0, {})
    assert tokenizer.grids == [(7, 7), (7, 7), (14, 14)]
    assert tokenizer.positions[:, 0].tolist() == [0] * 49 + [1] * 49 + [2] * 196
    images = torch.rand(2, 1, 28, 28) * 0.5 + 0.25
    finer = images.clone()
    finer[..., ::2, ::2] += 0.2
    finer[..., 1::2, 1::2] -= 0.2  # a diagonal detail of the finest level alone
    a, b = tokenizer.encode(images), tokenizer.encode(finer)
    assert torch.equal(a[:, :98], b[:, :98])
    assert not torch.equal(a[:, 98:], b[:, 98:])


@settings(max_examples=25, deadline=None)
@given(mu=st.floats(0.01, 300), bins=st.sampled_from([3, 7, 31, 101]), seed=st.integers(0, 99))
def test_error_of_a_companded_detail_is_within_the_documented_bound(mu, bins, seed):
    torch.manual_seed(seed)
    images = torch.rand(3, 1, 4, 4) ** 2 * 0.6 + 0.2
    config = configure("tokenizer", "scalar", detail_bins=bins, detail_range=0.5, companding=mu, coarsest=2, bins=4097)
    tokenizer = build(config, (1, 4, 4), 0, {})
    rebuilt = tokenizer.decode(tokenizer.encode(images))
    if rebuilt.min() <= 0 or rebuilt.max() >= 1:  # clipped
        return
    (before,), (after,) = (decompose(each, 1).details for each in (images, rebuilt))
    x = before / 2
    bound = (0.5 / mu + x.abs()) * ((1 + mu) ** (2 / (bins - 1)) - 1) / 2
    assert ((x - after / 2).abs() <= bound + 1e-5).all()


@pytest.mark.parametrize(("bins", "mu"), [(3, 1.0), (31, 8.0), (101, 255.0)])
def test_companded_levels_are_those_of_the_mu_law(bins, mu):
    levels = companded(bins, 0.5, mu)
    assert len(levels) == bins
    assert levels[bins // 2] == 0
    assert torch.equal(levels, -levels.flip(0))
    assert float(levels[-1]) == pytest.approx(0.5)
    u = (2 * levels).sign() * (1 + mu * (2 * levels).abs()).log() / math.log(1 + mu)  # G.711: even steps
    torch.testing.assert_close(u, torch.linspace(-1, 1, bins, dtype=torch.float64))


def test_fine_tokens_tell_what_the_default_ones_cannot():
    torch.manual_seed(0)
    images = torch.rand(20, 1, 14, 14)  # as rough as images get
    fine = configure("tokenizer", "scalar", **FINE)
    coarsely, finely = (build(c, (1, 14, 14), 0, {}) for c in (configure("tokenizer", "scalar"), fine))
    off = [float((made.decode(made.encode(images)) - images).square().mean().sqrt()) for made in (coarsely, finely)]
    assert off[1] < 0.01 < 0.05 < off[0]
    codes = finely.encode(0.4 + 0.2 * images)
    assert torch.equal(finely.encode(finely.decode(codes)), codes)


@pytest.mark.parametrize("level", [1, 2])
def test_the_codes_of_a_coarse_image_are_the_prefix_of_the_whole_image_s(level):
    images = torch.rand(4, 1, 28, 28)
    whole = build(configure("tokenizer", "scalar"), (1, 28, 28), 0, {})
    part = build(configure("tokenizer", "scalar"), (1, 28, 28), level, {})
    assert torch.equal(part.encode(coarse(images, level)), whole.encode(images)[:, : part.length])
    assert torch.equal(part.positions, whole.positions[: part.length])


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (configure("tokenizer", "scalar", detail_bins=4), "detail_bins=4"),
        (configure("tokenizer", "scalar", wavelet="db4"), "db4"),
        (configure("tokenizer", "scalar", digits=2), "bins=32 is no square.* such as 36"),
    ],
)
def test_bad_settings_are_refused_by_name(config, word):
    with pytest.raises(UserError, match=word):
        build(config, (1, 14, 14), 0, {})


def test_an_unknown_tokenizer_is_refused():
    with pytest.raises(UserError, match="tokenizer='nope' is not known: use one of llamagen, raster, scalar"):
        configure("tokenizer", "nope")
