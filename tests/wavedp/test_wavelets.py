"""wavedp.wavelets against PyWavelets, coefficient by coefficient."""

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedp.errors import UserError
from wavedp.levels import check_level
from wavedp.wavelets import Pyramid, coarse, decompose, reconstruct

WAVELETS = pywt.wavelist(kind="discrete")


@pytest.mark.parametrize("mode", ["symmetric", "reflect", "periodic", "constant", "zero"])
@pytest.mark.parametrize("wavelet", ["haar", "db4", "sym5", "bior4.4", "coif2"])
@pytest.mark.filterwarnings("ignore:Level value")
def test_equals_pywavelets(wavelet, mode):
    images = torch.randn(2, 3, 27, 34, dtype=torch.float64)
    ours, theirs = decompose(images, 2, wavelet, mode), pywt.wavedec2(images.numpy(), wavelet, mode, level=2)
    np.testing.assert_allclose(ours.approximation, theirs[0], atol=1e-12)
    for bands, expected in zip(ours.details, theirs[1:], strict=True):
        np.testing.assert_allclose(bands, np.stack(expected, axis=2), atol=1e-12)


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
