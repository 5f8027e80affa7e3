"""`dp_merf`: its features. Its training is in test_mean_embedding.py, its privacy in test_one_release.py."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from wavedp import checks
from wavedp.config import DataConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators.dp_merf import model as room
from wavedp.testing.generators import GeneratorSuite

FEW = {"features": 64, "channels": 8, "train_steps": 3, "train_batch": 20}


class TestDPMERF(GeneratorSuite):
    other = {"channels": 16}  # noqa: RUF012

    def config(self):
        return configure("generator", "dp_merf", **FEW)


class TestDPMERFAtLevel2(GeneratorSuite):
    other = {"channels": 16}  # noqa: RUF012

    def config(self):
        return configure("generator", "dp_merf", **FEW)

    def trial(self, base):
        return dataclasses.replace(base, level=2)


@pytest.mark.parametrize("size", [49, 196, 784])
def test_features_have_norm_1_and_the_published_kernel(size):
    """exp(-|x - y|² / 2σ²) with σ² = 105 at 784 numbers, and an image of four times as few as far away."""
    x = torch.rand(6, size, generator=torch.Generator().manual_seed(0))
    features = room.embedded(x, room.frequencies(20_000, size, 105.0)).double()
    assert torch.allclose(features.norm(dim=1), torch.ones(6, dtype=torch.float64), atol=1e-6)
    kernel = np.exp(-(torch.cdist(x, x).double() ** 2).numpy() / (2 * 105 * size / 784))
    assert np.allclose(features @ features.T, kernel, atol=0.02)
    dark, light = room.embedded(torch.stack([torch.zeros(size), torch.ones(size)]), room.frequencies(20_000, size, 105))
    assert float(dark @ light) == pytest.approx(math.exp(-784 / 210), abs=0.02)


def test_frequencies_are_the_same_for_everyone():
    torch.manual_seed(3)
    one = room.frequencies(10, 4, 105.0)
    torch.manual_seed(4)
    assert torch.equal(one, room.frequencies(10, 4, 105.0))
    assert not torch.equal(one, room.frequencies(10, 4, 50.0))


def test_features_that_are_no_pairs_are_refused():
    trial = TrialConfig(
        data=DataConfig(name="procedural", size=16, n_records=400), public=None, upscaler="bicubic",
        generator=configure("generator", "dp_merf", **{**FEW, "features": 65}),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"generator\.features=65 are cosines and sines in pairs: use an even number"):
        checks.check(trial)
