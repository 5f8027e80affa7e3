"""`dp_ldm` and `dp_lora`: the public autoencoder, what a private fit moves, samples. Their mechanism is in
test_dp_sgd_rooms.py."""

import dataclasses
import math

import pytest
import torch

from wavedp import checks
from wavedp.config import DataConfig, DiffusionConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.dp_ldm import autoencoder as room
from wavedp.generators.dp_ldm.model import PREFIX, LatentDiffusionModel, _latents
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import silent
from wavedp.testing.generators import GeneratorSuite
from wavedp.views import view

SMALL = {
    "pretrain_steps": 2, "pretrain_batch": 8, "autoencoder_channels": 16, "autoencoder_steps": 2,
    "autoencoder_batch": 8, "latent_channels": 2,
}  # fmt: skip


class TestDPLDM(GeneratorSuite):
    other = {"autoencoder_channels": 32}  # noqa: RUF012

    def config(self):
        return configure("generator", "dp_ldm", **SMALL)

    def trial(self, base):
        return dataclasses.replace(base, diffusion=DiffusionConfig(channels=16, multiplicity=1))


class TestDPLoRAWithEverything(GeneratorSuite):
    """Views, dropout and guidance, another sampler."""

    other = {"autoencoder_channels": 32}  # noqa: RUF012

    def config(self):
        return configure("generator", "dp_lora", rank=2, **SMALL)

    def trial(self, base):
        return dataclasses.replace(
            base,
            diffusion=DiffusionConfig(channels=16, multiplicity=1),
            privacy=dataclasses.replace(base.privacy, views=2, optimizer="adam_bc"),
            sampling=dataclasses.replace(base.sampling, guidance=2.0, algorithm="ancestral"),
        )


def made(name="dp_ldm", shape=(1, 8, 8), **changes):
    config = configure("generator", name, **{**SMALL, **changes})
    return LatentDiffusionModel(config, DiffusionConfig(channels=16, multiplicity=1), shape, 2, "cpu")


@pytest.mark.parametrize(
    ("shape", "latents"), [((1, 28, 28), (3, 14, 14)), ((3, 14, 14), (3, 7, 7)), ((1, 7, 7), (3, 7, 7))]
)
def test_latents_of_public_images_have_unit_variance_and_no_image_another_s(shape, latents):
    """28×28 become 14×14×3, as published; odd sides are kept."""
    config = configure("generator", "dp_ldm", **{**SMALL, "latent_channels": 3})
    assert room.latent_shape(config, shape) == latents
    torch.manual_seed(0)
    images = torch.rand(40, *shape)
    trained = room.train(config, shape, images, "cpu", silent, None)
    found = trained.encode(images)
    assert found.shape == (40, *latents)
    assert found.mean((0, 2, 3)).abs().max() < 1e-4
    assert (found.std((0, 2, 3)) - 1).abs().max() < 1e-4
    torch.testing.assert_close(trained.encode(images[3:4])[0], found[3], rtol=0, atol=1e-4)
    rebuilt = trained.decode(found)
    assert rebuilt.shape == images.shape
    assert 0 <= rebuilt.min() <= rebuilt.max() <= 1


def test_the_autoencoder_learns_to_rebuild_images():
    """Of half their size and one channel: smooth images fit, and noise does not."""
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(64, 1, 3, 3), (8, 8), mode="bilinear")
    config = configure("generator", "dp_ldm", **{**SMALL, "autoencoder_steps": 150, "autoencoder_learning_rate": 3e-3})
    trained = room.train(config, (1, 8, 8), smooth, "cpu", silent, None)
    off = (trained.decode(trained.encode(smooth)) - smooth).abs().mean()
    assert off < 0.3 * (smooth.mean(0) - smooth).abs().mean()


@pytest.mark.parametrize("name", ["dp_ldm", "dp_lora"])
def test_only_attention_and_the_condition_move(name, tmp_path):
    """At every size of the U-Net; the autoencoder stays as it was made in public, and is released with the U-Net."""
    model = made(name, shape=(1, 16, 16), **({"rank": 2} if name == "dp_lora" else {}))
    images, labels = torch.rand(30, 1, 16, 16), torch.arange(30) % 2
    weights = model.fit_public(images, labels, 0, silent)
    privacy = PrivacyConfig(epsilon=1.0, batch_size=10, steps=3)
    fit = FitSettings(privacy, {"private_fit": Mechanism(10 / 30, 1.5, 3)}, 5, tmp_path / "c")
    fitted = model.fit_private(weights, images, labels, fit, silent).weights
    assert fitted.keys() == weights.keys()
    moved = {key.rsplit(".", 1)[0] for key in weights if not torch.equal(weights[key], fitted[key])}
    blocks = {key.split(".attentions.")[0] for key in weights if key.startswith("unet.") and ".attentions." in key}
    assert len(blocks) > 3  # down, middle and up
    layers = {
        key.rsplit(".", 1)[0] for key in weights
        if key.startswith("unet.") and ".attentions." in key and ".to_" in key
    }  # fmt: skip
    assert moved == {"condition.table", *layers}
    if name == "dp_lora":
        (change,) = (fitted[key] - weights[key] for key in weights if key == f"{min(layers)}.weight")
        assert torch.linalg.matrix_rank(change) == 2
    assert any(key.startswith(PREFIX) for key in weights)


def test_views_are_taken_of_images_and_not_of_latents():
    model, images = made(), torch.rand(5, 1, 8, 8)
    weights = model.fit_public(images, torch.arange(5) % 2, 0, silent)
    autoencoder = model._autoencoder(weights)
    latents = _latents(autoencoder, images, views=3)
    for number in range(3):
        expected = autoencoder.encode(view(images, number))
        torch.testing.assert_close(model.data_of(latents, number), expected)
    take = model.public_data(latents[:, :2])
    rows = torch.tensor([1, 4])
    assert torch.equal(take(rows, 0)[:, 0], latents[rows, 0])
    assert torch.equal(take(rows, 1)[:, 0], latents[rows, 1])
    assert not torch.allclose(latents[:, 1], latents[:, 0].flip(-1), atol=1e-2)  # the network is no mirror


def test_it_learns_which_class_is_bright(tmp_path):
    """In its private fit, by attention and the condition alone: samples of one class are dark, of the other bright."""
    torch.manual_seed(0)
    images = torch.cat([torch.full((40, 1, 8, 8), 0.1), torch.full((40, 1, 8, 8), 0.9)])
    images = (images + 0.05 * torch.randn(images.shape)).clamp(0, 1)
    labels = torch.arange(80) // 40
    model = made(
        pretrain_steps=80, pretrain_batch=16, pretrain_learning_rate=3e-3, autoencoder_steps=40,
        autoencoder_batch=16, autoencoder_learning_rate=3e-3,
    )  # fmt: skip
    weights = model.fit_public(images, labels, 0, silent)
    privacy = PrivacyConfig(epsilon=math.inf, batch_size=16, steps=30, learning_rate=1e-2, ema_decay=0.5)
    fit = FitSettings(privacy, {"private_fit": Mechanism(16 / 80, 0.0, 30)}, 1, tmp_path / "c")
    fitted = model.fit_private(weights, images, labels, fit, silent).weights
    samples = model.sample(fitted, torch.tensor([0] * 8 + [1] * 8), SamplingConfig(diffusion_steps=8), 0, silent)
    assert samples[:8].mean() < 0.35
    assert samples[8:].mean() > 0.65


def trial(name="dp_ldm", public=True, **changes):
    images = DataConfig(name="procedural", size=16, n_records=64)
    return TrialConfig(
        data=images,
        public=dataclasses.replace(images, split="public") if public else None,
        generator=configure("generator", name, **{**SMALL, **changes}),
        privacy=PrivacyConfig(batch_size=16, steps=2),
    )


def test_what_it_cannot_do_is_refused():
    checks.check(trial())
    for asked, words in (
        (trial(public=False), "trains its autoencoder on public images, and public=null: set public"),
        (trial(autoencoder_channels=24), "autoencoder_channels=24 has no groups of equal size: use a multiple of 16"),
        (trial("dp_lora", rank=16), "rank=16 is not a low rank of layers 16 wide: use 1 to 15, or dp_ldm"),
    ):
        with pytest.raises(UserError, match=words):
            checks.check(asked)
