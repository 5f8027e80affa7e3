"""`dp_merf`: its features, its loss, its training. Privacy is in test_one_release.py."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from wavedp import checks
from wavedp.config import DataConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators.dp_merf import model as room
from wavedp.generators.dp_merf.model import DPMERFModel
from wavedp.generators.dp_merf.network import CODE, ConvGenerator
from wavedp.progress import silent
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


def model(shape=(1, 6, 6), n_classes=2, **changes):
    return DPMERFModel(configure("generator", "dp_merf", **{**FEW, **changes}), shape, n_classes, "cpu")


def weights(pixels, labels, features, n_classes=2):
    omega = room.frequencies(features, pixels.shape[1], 105.0)
    return {"sums": room.embeddings(pixels, labels, n_classes, omega), "frequencies": omega}


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


@pytest.mark.parametrize("features", [16, 2000, 10_000])
def test_the_count_weight_is_the_best_for_the_longest_embedding(features):
    def error(weight):
        return (1 + weight**2) * (features + 1 / weight**2)

    best = room.count_weight(features)
    assert all(error(best) <= error(best * factor) for factor in (0.5, 0.9, 1.1, 2))
    assert error(best) == pytest.approx(features * (1 + features**-0.5) ** 2)
    assert room.sensitivity(features) == pytest.approx(math.sqrt(1 + best**2))


def test_mean_embeddings_are_those_of_the_records_and_never_longer_than_1():
    pixels, labels = torch.rand(40, 36), torch.arange(40) % 2
    found = weights(pixels, labels, 64)
    means = room.mean_embeddings(found["sums"])
    for label in (0, 1):
        own = room.embedded(pixels[labels == label], found["frequencies"]).double().mean(0)
        assert torch.allclose(means[label], own, atol=1e-7)
    noise = 100 * torch.randn(found["sums"].shape, dtype=torch.float64)
    assert float(room.mean_embeddings(found["sums"] + noise).norm(dim=1).max()) <= 1 + 1e-9
    empty = room.mean_embeddings(weights(pixels, torch.zeros(40).long(), 64)["sums"])
    assert not empty[1].any()


@pytest.mark.parametrize("each", [2, 3])
def test_the_loss_is_unbiased(each):
    """Over all batches of a generator that draws one of three images with equal probability."""
    points = room.embedded(torch.rand(3, 36), room.frequencies(64, 36, 105.0)).double()
    target = room.embedded(torch.rand(1, 36), room.frequencies(64, 36, 105.0)).double()
    losses = [float(room.distance(points[list(drawn)][:, None], target))
              for drawn in itertools.product(range(3), repeat=each)]  # fmt: skip
    mean = points.mean(0)
    assert np.mean(losses) == pytest.approx(float(mean @ mean - 2 * (mean @ target[0])), abs=1e-6)


def two_kinds(n=400):
    """Class 0: bright on the left; class 1: on the right; each with a brightness of its own."""
    labels = torch.arange(n) % 2
    sides = torch.stack([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]).repeat_interleave(3, 1)  # 2 6
    light = 0.5 + 0.4 * torch.rand(n, 1, 1, generator=torch.Generator().manual_seed(0))
    return (sides[labels][:, None, :] * light).expand(n, 6, 6).flatten(1), labels


def test_training_brings_the_generator_to_the_embeddings_of_each_class():
    pixels, labels = two_kinds()
    found = weights(pixels, labels, 500)
    targets = room.mean_embeddings(found["sums"]).float()

    def distances(steps):
        made = model(features=500, train_steps=steps, channels=16, train_batch=40)
        images = made.sample(found, torch.arange(400) % 2, SamplingConfig(), 0, silent).flatten(1)
        features = room.embedded(images, found["frequencies"])
        return images, float((features.view(-1, 2, 500).mean(0) - targets).norm(dim=1).max())

    (_, untrained), (images, trained) = distances(0), distances(250)
    assert untrained > 0.3
    assert trained < 0.1
    for label in (0, 1):
        mean, own = images[label::2].mean(0), pixels[labels == label].mean(0)
        assert float((mean - own).abs().mean()) < 0.08
        # The spread of brightness within the class, too: alike images would be as near to the mean.
        assert float(images[label::2].mean(1).std()) > 0.5 * float(pixels[labels == label].mean(1).std())


def test_every_sample_set_comes_from_the_same_generator_and_no_global_state_matters():
    found, made = weights(*two_kinds(), 64), model()
    torch.manual_seed(1)
    one = made.trained(found, silent).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after), "it moved the global generator"
    torch.manual_seed(2)
    for name, value in made.trained(found, silent).state_dict().items():
        assert torch.equal(value, one[name])
    other = {**found, "sums": found["sums"] + 1e-3}
    assert not torch.equal(made.trained(other, silent).state_dict()["first.weight"], one["first.weight"])


@pytest.mark.parametrize("shape", [(1, 14, 14), (1, 7, 7), (3, 8, 8), (1, 1, 1), (2, 5, 9), (1, 28, 28)])
def test_the_network_makes_images_of_any_shape(shape):
    made = ConvGenerator(shape, 3, 8)
    images = made(torch.randn(4, CODE), torch.tensor([0, 1, 2, 0]))
    assert images.shape == (4, *shape)
    assert bool(((images >= 0) & (images <= 1)).all())
    assert not torch.equal(*made(torch.zeros(2, CODE), torch.tensor([0, 1])))


def test_a_training_that_diverges_is_refused():
    with pytest.raises(UserError, match="lower its learning rate"):
        model(train_learning_rate=1e30).trained(weights(*two_kinds(), 64), silent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 65}, r"generator\.features=65 are cosines and sines in pairs: use an even number"),
        ({"channels": 12}, r"generator\.channels=12 has no groups of equal size: use a multiple of 8"),
        ({"train_batch": 19}, r"train_batch=19 has less than two images for each of 10 classes.*use 20 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    trial = TrialConfig(
        data=DataConfig(name="procedural", size=16, n_records=400), public=None, upscaler="bicubic",
        generator=configure("generator", "dp_merf", **{**FEW, **changes}),
    )  # fmt: skip
    with pytest.raises(UserError, match=message):
        checks.check(trial)
