"""wavedp.wavelets against PyWavelets, coefficient by coefficient."""

from unittest import mock

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from wavedp.errors import UserError
from wavedp.levels import check_level
from wavedp.wavelets import Pyramid, coarse, decompose, doubled, reconstruct

WAVELETS = pywt.wavelist(kind="discrete")


@pytest.mark.parametrize("mode", pywt.Modes.modes)
@pytest.mark.parametrize("wavelet", ["haar", "db4", "sym5", "bior4.4", "coif2", "db10"])
@pytest.mark.parametrize("size", [(27, 34), (13, 5), (8, 8), (3, 2)])
@pytest.mark.filterwarnings("ignore:Level value")
def test_equals_pywavelets_in_every_mode_and_comes_back(wavelet, mode, size):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    levels = 1 if min(size) == 2 else 2  # a second one would be of one pixel
    ours, theirs = decompose(images, levels, wavelet, mode), pywt.wavedec2(images.numpy(), wavelet, mode, level=levels)
    scale = max(1.0, float(np.abs(theirs[0]).max()))  # smooth grows without bound
    np.testing.assert_allclose(ours.approximation, theirs[0], atol=1e-12 * scale)
    for bands, expected in zip(ours.details, theirs[1:], strict=True):
        np.testing.assert_allclose(bands, np.stack(expected, axis=2), atol=1e-12 * scale)
    back = reconstruct(ours, wavelet, mode)[..., : size[0], : size[1]]
    np.testing.assert_allclose(back, images, atol=1e-11 * scale)


def test_an_image_is_doubled_from_its_block_means_as_from_a_pyramid():
    """In value and slope, for a network that an accelerator trains."""
    results = []
    for double in (doubled, lambda means, bands: reconstruct(Pyramid(2 * means, (bands,)))):
        means, bands = (torch.rand(2, 3, *rest, 5, 7, requires_grad=True) for rest in ((), (3,)))
        with torch.no_grad():
            means.copy_(torch.linspace(0, 1, means.numel()).view_as(means))
            bands.copy_(torch.linspace(-1, 1, bands.numel()).square().view_as(bands))
        image = double(means, bands)
        image.square().sum().backward()
        results.append((image, means.grad, bands.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


def test_periodization_halves_sizes_exactly():
    pyramid = decompose(torch.rand(1, 1, 32, 16), 2, "db4", "periodization")
    assert pyramid.approximation.shape[-2:] == (8, 4)
    assert [bands.shape[-2:] for bands in pyramid.details] == [(8, 4), (16, 8)]


def test_haar_by_slices_is_haar_by_filters():
    """Bit by bit on the CPU, since private fits know their records by digests."""
    images = torch.rand(4, 3, 32, 24)
    low, high = (torch.tensor(taps) for taps in (pywt.Wavelet("haar").dec_lo, pywt.Wavelet("haar").dec_hi))

    def filtered(x, taps, axis):
        x = x.movedim(axis, -1)
        y = F.conv1d(x.reshape(-1, 1, x.shape[-1]), taps.flip(0).view(1, 1, -1), stride=2)
        return y.view(*x.shape[:-1], -1).movedim(-1, axis)

    made = decompose(images, 1)
    assert torch.equal(made.approximation, filtered(filtered(images, low, -2), low, -1))
    for band, (rows, columns) in zip(made.details[0].unbind(2), [(high, low), (low, high), (high, high)], strict=True):
        assert torch.equal(band, filtered(filtered(images, rows, -2), columns, -1))
    with mock.patch("torch.nn.functional.conv1d", None), mock.patch("torch.nn.functional.conv_transpose1d", None):
        torch.testing.assert_close(reconstruct(decompose(images, 3)), images)


@pytest.mark.parametrize("mode", ["reflect", "antireflect"])
def test_a_side_of_one_pixel_has_no_mirror_image(mode):
    with pytest.raises(UserError, match=f"mode={mode} cannot extend a side of one pixel"):
        decompose(torch.rand(1, 1, 8, 1), 1, "db2", mode)


def test_an_unknown_mode_is_refused():
    for call in (
        lambda: decompose(torch.rand(1, 1, 8, 8), 1, mode="wrap"),
        lambda: reconstruct(decompose(torch.rand(1, 1, 8, 8), 1), mode="wrap"),
    ):
        with pytest.raises(UserError, match=r"mode='wrap' is not one of PyWavelets'.*periodization"):
            call()


@settings(max_examples=60, deadline=None)
@given(
    wavelet=st.sampled_from([name for name in WAVELETS if pywt.Wavelet(name).dec_len <= 20 and name != "dmey"]),
    height=st.integers(20, 50),
    width=st.integers(20, 50),
    level=st.integers(0, 3),
)
def test_perfect_reconstruction_in_float32(wavelet, height, width, level):
    images = torch.rand(1, 2, height, width)
    back = reconstruct(decompose(images, level, wavelet), wavelet)[..., :height, :width]
    assert (back - images).abs().max() <= 1e-5


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_coarse_is_block_means_in_the_range_of_the_image(level):
    images = torch.rand(4, 1, 32, 16)
    side = 2**level
    means = images.reshape(4, 1, 32 // side, side, 16 // side, side).mean((3, 5))
    torch.testing.assert_close(coarse(images, level), means)
    assert coarse(torch.ones(1, 1, 32, 16), level).max() <= 1 + 1e-6


def test_zero_details_reconstruct_blocks():
    approximation = torch.rand(1, 1, 4, 4)
    image = reconstruct(Pyramid(approximation, (torch.zeros(1, 1, 3, 4, 4),)))
    torch.testing.assert_close(image, approximation.repeat_interleave(2, -1).repeat_interleave(2, -2) / 2)


@pytest.mark.parametrize(("level", "size"), [(3, 28), (1, 27), (-1, 28)])
def test_a_level_too_deep_names_the_sizes_and_a_level_that_works(level, size):
    with pytest.raises(
        UserError, match=rf"level={level} needs images divisible by .*{size}×{size}: use a level from 0"
    ):
        check_level(level, size, size)


def test_unknown_wavelet_is_refused():
    with pytest.raises(UserError, match="wavelet='nope'"):
        decompose(torch.rand(1, 1, 8, 8), 1, "nope")


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_no_caller_lowers_the_precision(wavelet):
    # A coefficient that is rounded otherwise may get another code: TF32 on CUDA did that to one record in a batch.
    images = torch.rand(2, 1, 16, 16)
    exact = decompose(images, 2, wavelet)
    with torch.autocast("cpu", torch.bfloat16):
        low = decompose(images, 2, wavelet)
        back = reconstruct(low, wavelet)
    assert torch.equal(low.approximation, exact.approximation)
    assert all(torch.equal(a, b) for a, b in zip(low.details, exact.details, strict=True))
    assert torch.equal(back, reconstruct(exact, wavelet))
