"""What public trainings, samplers, upscalers and features ask of a GPU at each step: no wait, and few kernels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from wavedp.averages import MovingAverage
from wavedp.config import DiffusionConfig, MetricsConfig, SamplingConfig, configure
from wavedp.devices import fused, taker
from wavedp.generators.blur_diffusion.model import BlurDiffusionModel
from wavedp.generators.spectral_ar.model import SpectralARModel
from wavedp.metrics import features, second_networks
from wavedp.progress import silent
from wavedp.testing import launches
from wavedp.tokenizers import training, untrained
from wavedp.tokenizers.spectral.network import spectral_network
from wavedp.upscalers.wavelet_detail import losses, network

IMAGES = torch.rand(64, 1, 28, 28)


def test_what_is_counted():
    there = torch.zeros(4, 2, device="meta")

    def step():
        total = (there.view(8) * 2).sum()  # two kernels; a view is none
        float(total)
        there.cpu()
        torch.tensor([1.0], device="meta")
        torch.zeros(20_000, 1).to("meta", non_blocking=True)  # too large to be staged
        torch.zeros(4, dtype=torch.long).to("meta", non_blocking=True)
        there[torch.tensor([1])]  # copies its index, and waits
        with torch.inference_mode():
            torch.nn.functional.linear(there, there)  # one matrix product, not a call of `linear`

    found = launches.per_step(lambda steps: [step() for _ in range(steps)], 2, 4)
    assert found == launches.PerStep(kernels=4, waits=5, uploads=1)


@pytest.mark.parametrize(
    ("joins", "kernels"),
    [(2.0, 166), (0.0, 287)],  # before: 293 and 653, and it waited 94 times
)
def test_training_wavelet_detail(monkeypatch, joins, kernels):
    monkeypatch.setattr(losses, "JOINS", joins)

    def train(steps):
        config = configure("upscaler", "wavelet_detail", train_steps=steps, train_batch=64)
        network.fit_public(IMAGES, config, "meta", silent)

    found = launches.per_step(train, 2, 6)
    assert (found.waits, found.uploads) == (0, 1)
    assert found.kernels <= kernels


@pytest.mark.parametrize(
    "options",
    [{"detail": "diffusion"}, {"detail_noise": 4, "detail_pixels": "energy", "detail_critic": "relativistic"}],
    ids=["diffusion", "critic"],
)
def test_training_wavelet_detail_of_other_kinds(monkeypatch, options):
    monkeypatch.setattr(losses, "JOINS", 0.0)

    def train(steps):
        network.fit_public(
            IMAGES,
            configure("upscaler", "wavelet_detail", train_steps=steps, train_batch=64, detail_halvings=1, **options),
            "meta",
            silent,
        )

    found = launches.per_step(train, 2, 6)
    assert (found.waits, found.uploads) == (0, 1)


def test_an_average_of_all_weights_at_once_is_that_of_each():
    """Bit by bit on the CPU, since published weights were averaged one by one."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7))
    decay = 0.6

    def mean(averaged, current, updates):
        return averaged.lerp(current, 1 - min(decay, (1 + int(updates)) / (10 + int(updates))))

    ours, theirs = MovingAverage(model, decay), AveragedModel(copy.deepcopy(model), avg_fn=mean)
    for _ in range(30):
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.add_(1)
        ours.update_parameters(model)
        theirs.update_parameters(model)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_records_stay_with_the_host_where_they_are_too_many(monkeypatch):
    rows = torch.tensor([3, 3, 0])
    assert torch.equal(taker(IMAGES, "cpu")(rows), IMAGES[rows])
    with launches.counted() as found:
        taker(IMAGES, "meta")(rows)
    assert (found.waits.total(), found.uploads.total()) == (1, 1)  # all records, and then the numbers of the rows
    monkeypatch.setattr("wavedp.devices.RESIDENT", 1000)
    assert torch.equal(taker(IMAGES, "cpu")(rows), IMAGES[rows])
    with launches.counted() as found:
        assert taker(IMAGES, "meta")(rows).shape == (3, 1, 28, 28)
    assert found.kernels.total() == 0  # the rows were taken before the copy


def test_a_fused_optimiser_takes_the_same_steps():
    """To rounding, so a CPU keeps the other form."""
    assert not fused("cpu")
    assert fused("cuda")
    torch.manual_seed(0)
    models = [torch.nn.Linear(30, 20) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, one_kernel in zip(models, (False, True), strict=True):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.99), fused=one_kernel)
        for step in range(50):
            optimizer.zero_grad()
            model(torch.linspace(-1, 1 + step, 30)).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(models[1].weight, models[0].weight, rtol=0, atol=1e-5)


@pytest.fixture
def scalar():
    return untrained(configure("tokenizer", "scalar"), (1, 28, 28), 1)


def weights_of(model):
    return model.to_empty(device="cpu").state_dict()


def test_pretraining_and_sampling_spectral_ar(scalar):
    def model(steps=1, dropout=0.0):
        config = configure("generator", "spectral_ar", pretrain_steps=steps, condition_dropout=dropout)
        return SpectralARModel(config, scalar, scalar, 10, "meta")

    def pretrain(steps):
        model(steps, dropout=0.1).fit_public(IMAGES[:, :, ::2, ::2], torch.arange(64) % 10, 0, silent)

    found = launches.per_step(pretrain, 2, 6)
    assert (found.waits, found.uploads) == (0, 3)  # rows of the codes and of the labels, and what drops labels
    weights = weights_of(model()._model(scalar, 10))

    def sample(batches):
        labels = torch.arange(8 * batches) % 10
        model().sample(weights, labels, SamplingConfig(batch_size=8, n=len(labels)), 0, silent)

    found = launches.per_step(sample, 1, 3)
    assert found.waits == 4  # labels and uniforms go there, images and whether they are finite come back: for 98 tokens
    assert found.kernels < 53 * scalar.length  # 61 before


def test_pretraining_and_sampling_blur_diffusion():
    def model(steps=1):
        config = configure("generator", "blur_diffusion", pretrain_steps=steps)
        return BlurDiffusionModel(config, DiffusionConfig(channels=8), "quartic", (1, 14, 14), 10, "meta")

    def pretrain(steps):
        model(steps).fit_public(IMAGES[:, :, ::2, ::2], torch.arange(64) % 10, 0, silent)

    found = launches.per_step(pretrain, 2, 6)
    assert (found.waits, found.uploads) == (1, 2)  # the uniforms of 128 records; rows of the images and of the labels
    weights = weights_of(model().network(10))

    def sample(steps):
        sampling = SamplingConfig(batch_size=8, n=8, diffusion_steps=steps)
        model().sample(weights, torch.arange(8), sampling, 0, silent)

    found = launches.per_step(sample, 10, 20)
    assert found.waits == 0  # 5 before
    assert found.kernels < 185  # 257 before


def test_training_a_tokenizer():
    def train(steps):
        config = configure("tokenizer", "spectral", train_steps=steps, train_batch=4)
        training.fit(lambda: spectral_network(config, (1, 28, 28)), IMAGES, config, "meta", silent)

    found = launches.per_step(train, 12, 20)  # what the last ten steps say is read at the end
    assert (found.waits, found.uploads) == (0, 1)


@pytest.mark.parametrize(("second", "images_a_pass"), [(False, 50), (True, 50)])
def test_features_wait_once_a_chunk(monkeypatch, second, images_a_pass):
    """Two passes of Inception, or of another network, that a layer stands for here."""
    passes = []

    def network(x):
        passes.append(len(x))
        return x.flatten(1)[:, : features.DIMENSIONS]

    config = MetricsConfig(second_network="effnetlite0" if second else None)
    monkeypatch.setattr(features, "load_network", lambda *_: network)
    monkeypatch.setattr(second_networks, "load", lambda *_: network)
    of = second_networks.extract if second else features.extract
    images = (IMAGES.repeat(2, 1, 1, 1)[:100] * 255).to(torch.uint8)
    with launches.counted() as found:
        of(images, config, device="meta")
    assert passes[-2:] == [images_a_pass] * 2
    assert found.waits == {"to the host": 1}
