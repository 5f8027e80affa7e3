"""Generators that are trained on mean embeddings: the loss and the training, for each. Privacy: test_one_release.py."""

import itertools
import math

import numpy as np
import pytest
import torch

from wavedp import checks
from wavedp.config import DataConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators.dp_merf.model import DPMERFModel, embedded, frequencies
from wavedp.generators.dp_ntk.model import DPNTKModel
from wavedp.generators.mean_embedding import model as room
from wavedp.generators.mean_embedding.network import CODE, ConvGenerator
from wavedp.progress import silent

MODELS = {"dp_merf": DPMERFModel, "dp_ntk": DPNTKModel}
FEW = {"dp_merf": {"features": 64}, "dp_ntk": {"hidden": 8}}
ENOUGH = {"dp_merf": {"features": 500}, "dp_ntk": {"hidden": 60}}
NEAR = {"dp_merf": 0.1, "dp_ntk": 0.1}


def model(name, n_classes=2, shape=(1, 6, 6), **changes):
    values = {"channels": 8, "train_steps": 3, "train_batch": 20, **FEW[name], **changes}
    return MODELS[name](configure("generator", name, **values), shape, n_classes, "cpu")


def weights(made, pixels, labels):
    """What a fit without noise releases."""
    public = made.public()
    return {"sums": made.totals(pixels, labels, public), **public}


def public_of(found):
    return {name: tensor for name, tensor in found.items() if name != "sums"}


@pytest.mark.parametrize("features", [16, 2000, 10_000])
def test_the_count_weight_is_the_best_for_the_longest_embedding(features):
    def error(weight):
        return (1 + weight**2) * (features + 1 / weight**2)

    best = room.count_weight(features)
    assert all(error(best) <= error(best * factor) for factor in (0.5, 0.9, 1.1, 2))
    assert error(best) == pytest.approx(features * (1 + features**-0.5) ** 2)
    assert room.sensitivity(features) == pytest.approx(math.sqrt(1 + best**2))


@pytest.mark.parametrize("name", MODELS)
def test_mean_embeddings_are_those_of_the_records_and_never_longer_than_1(name):
    pixels, labels, made = torch.rand(40, 36), torch.arange(40) % 2, model(name)
    found = weights(made, pixels, labels)
    assert found["sums"].shape == (2, made.size + 1)
    means = room.mean_embeddings(found["sums"])
    generated = made.means(pixels.view(40, 1, 6, 6), 20, public_of(found))
    assert torch.allclose(means.float(), generated, atol=1e-6)
    noise = 100 * torch.randn(found["sums"].shape, dtype=torch.float64)
    assert float(room.mean_embeddings(found["sums"] + noise).norm(dim=1).max()) <= 1 + 1e-9
    empty = room.mean_embeddings(made.totals(pixels, torch.zeros(40).long(), made.public()))
    assert not empty[1].any()


@pytest.mark.parametrize("each", [2, 3])
def test_the_loss_is_unbiased(each):
    """Over all batches of a generator that draws one of three images with equal probability."""
    points = embedded(torch.rand(3, 36), frequencies(64, 36, 105.0)).double()
    target = embedded(torch.rand(1, 36), frequencies(64, 36, 105.0)).double()
    losses = [float(room.distance(points[list(drawn)].mean(0, keepdim=True), target, each))
              for drawn in itertools.product(range(3), repeat=each)]  # fmt: skip
    mean = points.mean(0)
    assert np.mean(losses) == pytest.approx(float(mean @ mean - 2 * (mean @ target[0])), abs=1e-6)


def two_kinds(n=400):
    """Class 0: bright on the left; class 1: on the right; each with a brightness of its own."""
    labels = torch.arange(n) % 2
    sides = torch.stack([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]).repeat_interleave(3, 1)  # 2 6
    light = 0.5 + 0.4 * torch.rand(n, 1, 1, generator=torch.Generator().manual_seed(0))
    return (sides[labels][:, None, :] * light).expand(n, 6, 6).flatten(1), labels


@pytest.mark.parametrize("name", MODELS)
def test_training_brings_the_generator_to_the_embeddings_of_each_class(name):
    pixels, labels = two_kinds()
    found = weights(model(name, **ENOUGH[name]), pixels, labels)
    targets = room.mean_embeddings(found["sums"]).float()

    def distances(steps):
        made = model(name, train_steps=steps, channels=16, train_batch=40, **ENOUGH[name])
        images = made.sample(found, torch.arange(400) % 2, SamplingConfig(), 0, silent)
        apart = (made.means(images, 200, public_of(found)) - targets).norm(dim=1)
        return images.flatten(1), float(apart.max())

    (_, untrained), (images, trained) = distances(0), distances(250)
    assert untrained > 0.3
    assert trained < NEAR[name]
    for label in (0, 1):
        mean, own = images[label::2].mean(0), pixels[labels == label].mean(0)
        assert float((mean - own).abs().mean()) < 0.08
        # The spread of brightness within the class, too: alike images would be as near to the mean.
        assert float(images[label::2].mean(1).std()) > 0.5 * float(pixels[labels == label].mean(1).std())


@pytest.mark.parametrize("name", MODELS)
def test_every_sample_set_comes_from_the_same_generator_and_no_global_state_matters(name):
    made = model(name)
    found = weights(made, *two_kinds())
    torch.manual_seed(1)
    one = made.trained(found, silent).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after), "it moved the global generator"
    torch.manual_seed(2)
    for key, value in made.trained(found, silent).state_dict().items():
        assert torch.equal(value, one[key])
    other = {**found, "sums": found["sums"] + 1e-3}
    assert not torch.equal(made.trained(other, silent).state_dict()["first.weight"], one["first.weight"])


@pytest.mark.parametrize("shape", [(1, 14, 14), (1, 7, 7), (3, 8, 8), (1, 1, 1), (2, 5, 9), (1, 28, 28)])
def test_the_network_makes_images_of_any_shape(shape):
    made = ConvGenerator(shape, 3, 8)
    images = made(torch.randn(4, CODE), torch.tensor([0, 1, 2, 0]))
    assert images.shape == (4, *shape)
    assert bool(((images >= 0) & (images <= 1)).all())
    assert not torch.equal(*made(torch.zeros(2, CODE), torch.tensor([0, 1])))


@pytest.mark.parametrize("name", MODELS)
def test_a_training_that_diverges_is_refused(name):
    made = model(name, train_learning_rate=1e30)
    with pytest.raises(UserError, match="lower its learning rate"):
        made.trained(weights(made, *two_kinds()), silent)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 12}, r"generator\.channels=12 has no groups of equal size: use a multiple of 8"),
        ({"train_batch": 19}, r"train_batch=19 has less than two images for each of 10 classes.*use 20 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, changes, message):
    trial = TrialConfig(
        data=DataConfig(name="procedural", size=16, n_records=400), public=None, upscaler="bicubic",
        generator=configure("generator", name, **{**FEW[name], **changes}),
    )  # fmt: skip
    with pytest.raises(UserError, match=message):
        checks.check(trial)
