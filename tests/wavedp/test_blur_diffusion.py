"""The generator that diffuses: its loss record by record, its draws, and what it learns."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleHooks

from wavedp.config import DataConfig, DiffusionConfig, PrivacyConfig, SamplingConfig, configure
from wavedp.diffusion.blur import BlurOperator, effective_blur
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.blur_diffusion.model import (
    BlurDiffusionModel,
    forward_process,
    matching_time,
    record_loss,
)
from wavedp.generators.denoising import draws_of, standard_normal
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import silent
from wavedp.reports import reverse
from wavedp.upscalers.completion import Completion
from wavedp.wavelets import coarse, spread

SHAPE = (1, 8, 8)
SMALL = DiffusionConfig(channels=16, multiplicity=2)


def generator(blur="quartic", config=SMALL, shape=SHAPE, **changes):
    settings = configure("generator", "blur_diffusion", **{"pretrain_steps": 2, "pretrain_batch": 8, **changes})
    return BlurDiffusionModel(settings, config, blur, shape, 2, "cpu")


class Nothing(torch.nn.Module):
    """Predicts 0, so that the loss is the weighted mean square of its target."""

    condition = None

    def forward(self, noisy, times, conditions):
        return torch.zeros_like(noisy)


def test_the_loss_is_the_weighted_velocity_error_of_each_draw():
    process = forward_process(SMALL, "quartic")
    images = torch.rand(3, *SHAPE)
    draws = torch.rand(3, draws_of(SHAPE, views=2, multiplicity=2))
    loss = record_loss(process, SMALL, 0.0, 2, 2)(Nothing(), images, torch.zeros(3, dtype=torch.long), draws)
    operator, expected = BlurOperator(process, 8, 8), torch.zeros(3)
    for record in range(3):
        for number, shown in enumerate((images[record], images[record].flip(-1))):  # views 0 and 1
            for row in draws[record].view(2, -1)[number, 1:].view(2, -1):
                t = int(row[0] * 1000)
                a, s = (coefficients.exp()[0] for coefficients in operator.log_coefficients(t))
                modes = operator.to_modes(2 * shown[None].double() - 1)
                noise = operator.to_modes(standard_normal(row[1:]).view(1, *SHAPE).double())
                snr = (a / s).square().mean()
                weight = snr.clamp(max=5) / (snr + 1)
                expected[record] += (weight * (a * noise - s * modes).square().mean() / 4).float()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_uniform_numbers_become_normal_ones():
    normal = standard_normal(torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    assert normal.mean().abs() < 0.01
    assert (normal.std() - 1).abs() < 0.01
    assert standard_normal(torch.tensor([0.0, 1 - 2.0**-24])).isfinite().all()


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the first layer's input is data
@pytest.mark.parametrize("shape", [(1, 7, 7), (1, 14, 14), (3, 8, 8)])
def test_every_record_has_the_gradient_of_its_own_loss(shape):
    """Opacus' hooks against autograd, layer by layer: the attention's memory layout once made two of them zero."""
    torch.manual_seed(0)
    made = generator(shape=shape)
    model = made.network(2)
    batch = torch.rand(3, *shape), torch.arange(3) % 2, torch.rand(3, draws_of(shape, 2, 2))
    loss_fn = record_loss(made.process, SMALL, 0.0, 2, 2)
    hooks = GradSampleHooks(model, loss_reduction="sum")
    loss_fn(model, *batch).sum().backward()
    found = {name: parameter.grad_sample for name, parameter in model.named_parameters()}
    hooks.cleanup()
    for record in range(3):
        alone = loss_fn(model, *(item[record : record + 1] for item in batch))
        exact = torch.autograd.grad(alone.sum(), list(model.parameters()))
        for name, gradient in zip(found, exact, strict=True):
            torch.testing.assert_close(found[name][record], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_fit_does_not_depend_on_its_microbatches(dropout, tmp_path: Path):
    made = generator(condition_dropout=dropout)
    images, labels = torch.rand(30, *SHAPE), torch.arange(30) % 2
    weights = made.fit_public(images, labels, 0, silent)
    fits = []
    for size in (3, 64):
        privacy = PrivacyConfig(epsilon=1.0, batch_size=10, steps=2, microbatch_size=size, optimizer="sgd")
        settings = FitSettings(privacy, {"private_fit": Mechanism(10 / 30, 1.3, 2)}, 5, tmp_path / str(size))
        fits.append(made.fit_private(weights, images, labels, settings, silent).weights)
    for name, one in fits[0].items():
        torch.testing.assert_close(one, fits[1][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("trained", ["attention", "lora"])
def test_only_attention_and_condition_move_when_asked_to(trained, tmp_path):
    made = generator()
    images, labels = torch.rand(30, *SHAPE), torch.arange(30) % 2
    weights = made.fit_public(images, labels, 0, silent)
    privacy = PrivacyConfig(epsilon=1.0, batch_size=10, steps=3, trained=trained, lora_rank=2)
    fit = FitSettings(privacy, {"private_fit": Mechanism(10 / 30, 1.5, 3)}, 5, tmp_path / "c")
    fitted = made.fit_private(weights, images, labels, fit, silent).weights
    assert fitted.keys() == weights.keys()
    moved = {name.rsplit(".", 1)[0] for name in weights if not torch.equal(weights[name], fitted[name])}
    attention = "unet.mid_block.attentions.0."
    assert moved == {"condition.table", *(attention + name for name in ("to_q", "to_k", "to_v", "to_out.0"))}
    if trained == "lora":
        change = fitted[attention + "to_v.weight"] - weights[attention + "to_v.weight"]
        assert torch.linalg.matrix_rank(change) == 2


def test_it_learns_which_class_is_bright(tmp_path):
    """Two flat classes: samples of one are dark, of the other bright."""
    torch.manual_seed(0)
    images = torch.cat([torch.full((40, *SHAPE), 0.1), torch.full((40, *SHAPE), 0.9)])
    labels = torch.arange(80) // 40
    made = generator(pretrain_steps=150, pretrain_batch=32, pretrain_learning_rate=3e-3)
    weights = made.fit_public(images, labels, 0, silent)
    mean = weights["condition.table.weight"][:2]
    assert torch.equal(mean[0], mean[1])  # public classes are not kept
    privacy = PrivacyConfig(epsilon=float("inf"), batch_size=32, steps=60, learning_rate=3e-3)
    fit = FitSettings(privacy, {"private_fit": Mechanism(32 / 80, 0.0, 60)}, 1, tmp_path / "c")
    fitted = made.fit_private(weights, images, labels, fit, silent).weights
    samples = made.sample(fitted, torch.tensor([0] * 8 + [1] * 8), SamplingConfig(diffusion_steps=8), 0, silent)
    assert samples[:8].mean() < 0.35
    assert samples[8:].mean() > 0.65


@pytest.mark.parametrize("algorithm", ["ancestral", "ddim", "reverse_diffusion", "dpmsolver++"])
def test_samples_depend_on_their_own_row_alone(algorithm):
    torch.manual_seed(0)
    made = generator("log")
    weights = made.fit_public(torch.rand(8, *SHAPE), torch.arange(8) % 2, 0, silent)
    sampling = SamplingConfig(diffusion_steps=4, algorithm=algorithm, batch_size=3)
    labels = torch.arange(5) % 2
    all_five = made.sample(weights, labels, sampling, 7, silent)
    first_two = made.sample(weights, labels[:2], sampling, 7, silent)
    torch.testing.assert_close(all_five[:2], first_two, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(all_five[0], all_five[2], atol=1e-2)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 24)])
def test_deblurring_keeps_the_coarse_image_and_is_a_function_of_it(factor, shape):
    made = generator(shape=shape)
    weights = made.fit_public(torch.rand(8, *shape), torch.zeros(8, dtype=torch.long), 0, silent)
    images = torch.rand(3, shape[0], shape[1] // factor, shape[2] // factor)
    upscaler = Completion("blur_diffusion", lambda part, factor: made.complete(weights, part, steps=4))
    full = upscaler.upscale(images, factor)
    assert full.shape == (3, *shape)
    assert full.min() >= 0
    assert full.max() <= 1
    torch.testing.assert_close(coarse(full, factor.bit_length() - 1), images, rtol=0, atol=1e-5)
    assert not torch.allclose(full, spread(images, factor), atol=0.01)
    assert torch.equal(full, upscaler.upscale(images, factor))
    torch.testing.assert_close(upscaler.upscale(images[1:2], factor)[0], full[1], rtol=0, atol=1e-4)


def test_deblurring_begins_where_the_blur_is_that_of_block_means():
    process = forward_process(SMALL, "quartic")
    blur = effective_blur(process)
    for factor in (2, 4):
        t = matching_time(process, factor)
        box = torch.arange(factor).double() - (factor - 1) / 2
        assert blur[t - 1] < box.square().mean().sqrt() <= blur[t]
    assert matching_time(process, 1) == 0
    control = forward_process(dataclasses.replace(SMALL, blur_order="fine_to_coarse"), "quartic")
    with pytest.raises(UserError, match="blur_order=fine_to_coarse has no time that looks like a coarse image"):
        matching_time(control, 2)
    with pytest.raises(UserError, match=r"blurs up to 1\.51 pixels, less than the 2\.29 of 8×8 block means"):
        matching_time(process, 8)


def test_deblurring_enters_the_process_where_it_would_be():
    """Data as blurred as the process has them at the beginning: the state later on is the process's own."""
    made = generator()
    operator = BlurOperator(made.process, 8, 8)
    sharp, noise, start, t = torch.rand(2, *SHAPE).double() * 2 - 1, torch.randn(2, *SHAPE).double(), 500, 600
    (first, _), (log_a, log_s) = operator.log_coefficients(start), operator.log_coefficients(t)
    alone = first - operator.log_alpha_bar[start + 1] / 2  # blur without the fading of noise
    blurred = operator.to_pixels(alone.exp() * operator.to_modes(sharp))
    expected = operator.to_pixels(log_a.exp() * operator.to_modes(sharp) + log_s.exp() * operator.to_modes(noise))
    torch.testing.assert_close(made._blurred_so_far(blurred, noise, start, t), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "ancestral"])
def test_the_trace_of_a_sample_ends_at_it(algorithm):
    made, labels = generator(), torch.tensor([0, 1, 1])
    weights = made.fit_public(torch.rand(8, *SHAPE), torch.arange(8) % 2, 0, silent)
    sampling = SamplingConfig(diffusion_steps=5, algorithm=algorithm)
    noisy, predicted = made.trace(weights, labels, sampling, seed=3)
    assert noisy.shape == predicted.shape == (3, 5, *SHAPE)
    assert made.times(sampling).tolist()[0] == 999
    images = made.sample(weights, labels, sampling, 3, silent)
    torch.testing.assert_close(((predicted[:, -1] + 1) / 2).clamp(0, 1), images)
    torch.testing.assert_close(made.sample(weights, labels[:1], sampling, 3, silent)[0], images[0])


def test_the_ways_of_three_schedules_are_written(tmp_path, capsys):
    """The command on procedural images: models of different schedules, the same first noise."""
    public = DataConfig(name="procedural", n_records=40)
    arguments = ["--train-steps", "2", "--steps", "4", "--store", str(tmp_path / "store"), "--results", str(tmp_path)]
    assert reverse.main(arguments, public=public) == 0
    stored = np.load(tmp_path / "reverse.npz")
    about = json.loads(str(stored["about"]))
    assert stored["noisy"].shape == stored["predicted"].shape == (3, 3, 4, 1, 28, 28)
    assert len(set(about["models"])) == 3
    assert stored["times"].shape == (4,)
    assert (stored["noisy"][0, :, 0] == stored["noisy"][1, :, 0]).all()
    assert (stored["predicted"][0, :, -1] != stored["predicted"][1, :, -1]).any()
    assert reverse.main([*arguments, "--steps", "2000"], public=public) == 2
    assert "does not fit" in capsys.readouterr().err
