"""Each generator that is fitted by DP-SGD: sensitivity by brute force, noise and its price by other means; and that
these tests notice half the noise and twice the sensitivity."""

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant

from wavedp import chain
from wavedp.config import DataConfig, DiffusionConfig, PrivacyConfig, TrialConfig, configure
from wavedp.generators import FitSettings, denoising, token_model
from wavedp.generators.dp_ldm.model import LatentDiffusionModel
from wavedp.generators.dp_ldm_checkpoint.facts import facts_of
from wavedp.generators.dp_ldm_checkpoint.model import CheckpointModel
from wavedp.generators.dp_llamagen.model import LlamaGenModel
from wavedp.generators.dp_llamagen_checkpoint.model import LlamaGenCheckpointModel
from wavedp.privacy import clipping, training
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import RecordGradients, trainable
from wavedp.progress import silent
from wavedp.testing.checkpoints import GPT, VQ, random_diffusers, random_llamagen
from wavedp.tokenizers import build, untrained

RASTER = {"coarsest": 4, "codes": 12, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}
SIDE, CLASSES, N, SIGMA = 8, 3, 9, 1.3
PRIVACY = PrivacyConfig(epsilon=4.0, batch_size=N, steps=1, optimizer="sgd", learning_rate=1.0, ema_decay=0.0)


def llamagen():
    torch.manual_seed(0)
    tokens = untrained(configure("tokenizer", "raster", **RASTER), (1, SIDE, SIDE), 0)
    config = configure("generator", "dp_llamagen", width=16, depth=1, heads=2, pretrain_steps=0)
    return LlamaGenModel(config, tokens, tokens, CLASSES, "cpu")


def latents(name, **changes):
    torch.manual_seed(0)
    few = {"autoencoder_channels": 16, "autoencoder_steps": 1, "autoencoder_batch": 4, "pretrain_steps": 0}
    config = configure("generator", name, **few, **changes)
    return LatentDiffusionModel(config, DiffusionConfig(channels=16, multiplicity=1), (1, SIDE, SIDE), CLASSES, "cpu")


FOLDER = TemporaryDirectory()


def published(name, **options):
    """Stands for a published checkpoint."""
    folder = Path(FOLDER.name, "sd")
    if not folder.exists():
        random_diffusers(folder, "sd", SIDE)
    config = configure("generator", name, checkpoint=str(folder), conditioning="class", **options)
    return CheckpointModel(config, facts_of(str(folder)), (1, SIDE, SIDE), CLASSES, "cpu")


def published_tokens():
    folder = Path(FOLDER.name, "c2i")
    if not folder.exists():
        random_llamagen(folder, "c2i")
    files = {"checkpoint": str(folder / "gpt.pt"), "conditioning": "class"}
    tokens = configure("tokenizer", "llamagen", checkpoint=str(folder / "vq.pt"), **VQ)
    made = build(tokens, (1, SIDE, SIDE), 0, {})
    return LlamaGenCheckpointModel(
        configure("generator", "dp_llamagen_checkpoint", **GPT, **files), made, made, CLASSES, "cpu"
    )


ROOMS = {
    "dp_llamagen": (token_model, llamagen),
    "dp_ldm": (denoising, lambda: latents("dp_ldm")),
    "dp_lora": (denoising, lambda: latents("dp_lora", rank=2)),
    "dp_ldm_checkpoint": (denoising, lambda: published("dp_ldm_checkpoint")),
    "dp_lora_checkpoint": (denoising, lambda: published("dp_lora_checkpoint", rank=4)),
    "dp_llamagen_checkpoint": (token_model, published_tokens),
}
"""The module that runs the private fit, and a small model."""

rooms = pytest.mark.parametrize("name", ROOMS)


def records():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(N, 1, SIDE, SIDE, generator=generator), torch.arange(N) % CLASSES


class Seen(Exception):
    """Ends a fit before its first step."""


def asked(name, monkeypatch):
    """What the room asks of DP-SGD: (model, loss, records with their uniform numbers, settings)."""
    module, make = ROOMS[name]
    found = []

    def fit_private(model, loss_fn, batch, config, draws=0, **options):
        found.append((model, loss_fn, batch, config, draws))
        raise Seen

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit_private", fit_private)
        made = make()
        weights = made.fit_public(*records(), 0, silent)
        with pytest.raises(Seen):
            made.fit_private(weights, *records(), settings(Path("none")), silent)
    ((model, loss_fn, batch, config, draws),) = found
    model.train()
    for parameter in trainable(model).values():  # heads and updates that begin at 0 would hide what is behind them
        torch.nn.init.normal_(parameter, std=0.2)
    numbers = torch.rand(N, draws, generator=torch.Generator().manual_seed(4))
    return model, loss_fn, (*batch, numbers) if draws else batch, config


def settings(checkpoint):
    return FitSettings(PRIVACY, {"private_fit": Mechanism(1, SIGMA, 1)}, 5, checkpoint)


def longest_change(name, monkeypatch, max_grad_norm):
    """How far one record moves the sum that gets noise, over all datasets that lack one of the records."""
    model, loss_fn, batch, config = asked(name, monkeypatch)
    gradients = RecordGradients(model, max_grad_norm, config.grad_sample_mode, config.clipping)

    def total(rows):
        sums = gradients.clipped_sum(loss_fn, [tensor[rows] for tensor in batch])
        return torch.cat([each.double().flatten() for each in sums])

    whole = total(range(N))
    moved = [float((whole - total([i for i in range(N) if i != left])).norm()) for left in range(N)]
    gradients.close()
    return max(moved)


@rooms
def test_a_record_moves_the_sum_by_no_more_than_the_clipping_norm(name, monkeypatch):
    assert longest_change(name, monkeypatch, 1e-3) == pytest.approx(1e-3, rel=1e-2)  # all are clipped
    assert longest_change(name, monkeypatch, 1e-3) <= 1e-3 * (1 + 1e-4)


@rooms
def test_twice_the_sensitivity_is_noticed(name, monkeypatch):
    factors = clipping.clipping_factors
    monkeypatch.setattr(clipping, "clipping_factors", lambda *arguments: 2 * factors(*arguments))
    assert longest_change(name, monkeypatch, 1e-3) > 1.9e-3


def noise_multiplier(name, folder, monkeypatch):
    """σ as the released weights show it: a step of SGD at rate 1 on gradients clipped to next to nothing."""
    module, make = ROOMS[name]
    seen, fit_private = [], training.fit_private

    def watched(model, *arguments, **options):
        before = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
        done = fit_private(model, *arguments, **options)
        seen.append(torch.cat([(done.ema[name] - start).double().flatten() for name, start in before.items()]))
        return done

    monkeypatch.setattr(module, "fit_private", watched)
    made = make()
    weights = made.fit_public(*records(), 0, silent)
    done = made.fit_private(weights, *records(), settings(folder / "c"), silent)
    assert done.mechanisms == {"private_fit": Mechanism(1, SIGMA, 1)}
    (moved,) = seen
    # Records move the sum by at most N C in all, which noise of norm σ C √weights hides.
    assert len(moved) > 1000
    return float(moved.std()) * PRIVACY.batch_size / (PRIVACY.learning_rate * PRIVACY.max_grad_norm)


@rooms
def test_released_weights_have_the_planned_noise(name, tmp_path, monkeypatch):
    assert noise_multiplier(name, tmp_path, monkeypatch) == pytest.approx(SIGMA, rel=0.1)


@rooms
def test_half_the_noise_is_noticed(name, tmp_path, monkeypatch):
    noisy_mean = training.noisy_mean

    def quieter(sums, noise_multiplier, *rest):
        return noisy_mean(sums, noise_multiplier / 2, *rest)

    monkeypatch.setattr(training, "noisy_mean", quieter)
    assert noise_multiplier(name, tmp_path, monkeypatch) < 0.75 * SIGMA


@rooms
@pytest.mark.parametrize("epsilon", [1.0, 10.0])
def test_the_planned_noise_costs_what_dp_accounting_says(name, epsilon):
    """Its own events and accountant, on the line that the ledger will have."""
    images = DataConfig(name="procedural", size=16, n_records=500)
    privacy = PrivacyConfig(epsilon=epsilon, delta=1e-5, batch_size=50, steps=30)
    trial = TrialConfig(
        data=images,
        public=replace(images, split="public"),
        generator=configure("generator", name),
        tokenizer=configure("tokenizer", "raster"),
        privacy=privacy,
    )
    planned = chain.mechanisms(trial)
    assert list(planned) == ["private_fit"]
    line = planned["private_fit"]
    n_records = chain.n_records(trial.data, "train")
    assert (line.sample_rate, line.steps) == (50 / n_records, 30)
    step = dp_event.PoissonSampledDpEvent(line.sample_rate, dp_event.GaussianDpEvent(line.noise_multiplier))
    accountant = PLDAccountant()
    accountant.compose(dp_event.SelfComposedDpEvent(step, line.steps))
    assert epsilon * 0.98 <= accountant.get_epsilon(1e-5) <= epsilon * (1 + 1e-3)
    without = replace(trial, privacy=replace(privacy, epsilon=math.inf))
    assert chain.mechanisms(without)["private_fit"] == replace(line, noise_multiplier=0.0)
