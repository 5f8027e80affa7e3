"""What every upscaler must keep: `check_upscaler(upscaler, factor)` raises AssertionError where one does not."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from wavedp.upscalers import Upscaler


def coarse_scenes(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Block means [B C height width] of flat regions with sharp borders, what a coarse image of a scene looks like.

    Photo models take a blurred field for a badly focused scene and draw edges into it, so smooth noise will not do.
    """
    generator = torch.Generator().manual_seed(0)
    size = (height * 4, width * 4)
    scenes = torch.zeros(count, channels, *size)
    for _ in range(3):
        coarse = torch.rand(count, 1, 4, 4, generator=generator)
        inside = F.interpolate(coarse, size, mode="bicubic", align_corners=True) > 0.5
        scenes = torch.where(inside, torch.rand(count, channels, 1, 1, generator=generator), scenes)
    return F.avg_pool2d(scenes, 4)


def check_upscaler(
    upscaler: Upscaler, factor: int, constant_tolerance: float = 0.1, block_mean_tolerance: float = 0.08
) -> None:
    """Shape, range, independence, determinism, constants and block means, on grey and RGB images that are not square;
    factor 1 changes nothing.

    constant_tolerance: largest deviation from a constant input. block_mean_tolerance: mean absolute difference between
    the input and the output's block means.
    """
    note = upscaler.bridge(factor)
    assert note is None or note.strip(), "bridge() gives a note or None"
    for channels in (1, 3):
        images = coarse_scenes(3, channels, 9, 14)
        given = images.clone()
        output = upscaler.upscale(images, factor)
        assert torch.equal(images, given), "upscale() must not write into its input"
        assert output.shape == (3, channels, 9 * factor, 14 * factor)
        assert output.dtype == torch.float32
        assert output.isfinite().all()
        assert output.min() >= 0
        assert output.max() <= 1
        assert torch.equal(output, upscaler.upscale(images, factor)), "the same images must give the same output"
        if factor == 1:
            assert torch.equal(output, images), "factor 1 leaves images as they are"
        for i in range(len(images)):
            alone = upscaler.upscale(images[i : i + 1], factor)
            torch.testing.assert_close(alone[0], output[i], atol=1e-5, rtol=0)
        block_means = F.avg_pool2d(output, factor)
        # Per channel, so that channels that changed places are noticed.
        error = (block_means - images).abs().mean((0, 2, 3)).max()
        assert error <= block_mean_tolerance, f"block means moved by {error:.4f}"

        for value in (0.0, 0.25, 1.0):
            flat = upscaler.upscale(torch.full((1, channels, 7, 5), value), factor)
            deviation = (flat - value).abs().max()
            assert deviation <= constant_tolerance, f"a constant {value} moved by {deviation:.4f}"
