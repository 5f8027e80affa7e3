"""The low-pass is kept, samples have the distribution of what is missing, and one public model serves all levels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from wavedp.config import configure, to_dict
from wavedp.methods import Weights
from wavedp.progress import silent
from wavedp.testing.upscalers import check_upscaler, coarse_scenes
from wavedp.upscalers import load
from wavedp.upscalers.completion import Completion
from wavedp.upscalers.low_pass import keep_low_pass
from wavedp.upscalers.wavelet_detail import WaveletDetailConfig, diffusion, losses, network
from wavedp.upscalers.wavelet_detail.critic import Critic
from wavedp.wavelets import coarse, spread

SMALL = configure(
    "upscaler",
    "wavelet_detail",
    train_steps=100,
    train_batch=32,
    train_learning_rate=1e-2,
    detail="sampled",
    detail_width=8,
    detail_depth=1,
)
REGRESSION = replace(SMALL, detail="regression")
ADVERSARIAL = replace(SMALL, detail="adversarial", detail_perceptual=0.0, detail_adversarial=3.0, train_steps=400)
CRITIC = replace(
    ADVERSARIAL,
    train_batch=8,
    train_steps=200,
    detail_halvings=1,
    detail_noise=4,
    detail_critic="relativistic",
    detail_critic_width=16,
    detail_adversarial=5.0,
)
DIFFUSION = replace(SMALL, detail="diffusion", detail_width=16, detail_depth=2, detail_decay=0.98, train_steps=120)


def test_the_recipe_is_the_one_of_the_configuration_file():
    written = yaml.safe_load(Path(__file__).parents[2].joinpath("conf/upscaler/wavelet_detail.yaml").read_text())
    recipe = {name: type(value)(written[name]) for name, value in to_dict(WaveletDetailConfig()).items()}
    assert recipe == to_dict(WaveletDetailConfig())
    assert set(written) == set(recipe)


def stripes(count: int, side: int = 8) -> torch.Tensor:
    """Grey images of 2×2 blocks whose upper row is 0.5 ± 0.3 and lower row 0.5 ∓ 0.3, the sign drawn for each block:
    block means are 0.5 throughout, and say nothing. Training turns and mirrors them: columns come as often as rows."""
    sign = torch.randint(2, (count, 1, side // 2, side // 2), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return 0.5 + 0.3 * spread(sign, 2) * (-1.0) ** torch.arange(side).view(1, 1, -1, 1)


@pytest.fixture(scope="module")
def trained() -> dict[str, Weights]:
    return {config.detail: network.fit_public(stripes(256), config, "cpu", silent) for config in (SMALL, REGRESSION)}


def upscaler(config: WaveletDetailConfig, weights: Weights) -> Completion:
    return Completion(config.name, partial(network.complete, config, weights, "cpu"))


def random_weights(channels: int) -> Weights:
    torch.manual_seed(0)
    return network.build(SMALL, channels).state_dict()


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_the_low_pass_is_the_coarse_image_and_images_stay_apart(factor):
    class AnyChannels:
        """The conformance suite shows grey and RGB images; a network has the channels of its study."""

        name = "wavelet_detail"

        def upscale(self, images, factor):
            return upscaler(SMALL, random_weights(images.shape[1])).upscale(images, factor)

        def bridge(self, factor):
            return None

    # A constant may become a texture here: the weights are random.
    check_upscaler(AnyChannels(), factor, constant_tolerance=1, block_mean_tolerance=1e-6)


def test_before_clipping_the_low_pass_is_kept_by_the_wavelets_themselves():
    images = coarse_scenes(2, 3, 6, 10)
    drawn = network.complete(SMALL, random_weights(3), "cpu", images, 4)
    assert (drawn - spread(images, 4)).abs().max() > 0.05  # something was drawn
    torch.testing.assert_close(coarse(drawn, 2), images, atol=1e-5, rtol=0)


def test_sampling_draws_what_may_be_and_regression_always_the_same(trained):
    flat = torch.full((200, 1, 4, 4), 0.5) + 1e-4 * torch.arange(200).view(-1, 1, 1, 1)  # its noise is an image's own
    drawn = {
        config.detail: network.complete(config, trained[config.detail], "cpu", flat, 2) - spread(flat, 2)
        for config in (SMALL, REGRESSION)
    }
    assert 0.15 < drawn["sampled"].abs().mean() < 0.45  # 0.3 in the images
    assert drawn["sampled"].std(0).mean() > 0.15  # another draw for each image
    assert 0.4 < (drawn["sampled"] > 0).double().mean() < 0.6
    assert drawn["regression"].std(0).mean() < 0.01


def test_diffusion_draws_what_may_be():
    """A block's upper or left half is 0.3 brighter or darker than its mean, whose value says nothing of it."""
    weights = network.fit_public(stripes(256), DIFFUSION, "cpu", silent)
    flat = torch.full((200, 1, 4, 4), 0.5) + 1e-4 * torch.arange(200).view(-1, 1, 1, 1)
    drawn = network.complete(DIFFUSION, weights, "cpu", flat, 2) - spread(flat, 2)
    assert 0.2 < drawn.abs().mean() < 0.4
    assert drawn.std(0).mean() > 0.2
    assert 0.4 < (drawn > 0).double().mean() < 0.6


def zeroed() -> diffusion.DetailDiffusion:
    """Its F is 0, so that D(x, σ) = x / (σ² + 1): the mean of white noise of variance 1, given x."""
    made = network.build(DIFFUSION, 1)
    assert isinstance(made, diffusion.DetailDiffusion)
    for value in made.last.parameters():
        torch.nn.init.zeros_(value)
    return made


@torch.no_grad()
def test_the_solver_brings_noise_to_the_variance_of_the_data():
    model, images, errors = zeroed(), torch.full((8, 1, 16, 16), 0.5), []
    noise = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exact = noise * diffusion.LARGEST / (diffusion.LARGEST**2 + 1) ** 0.5  # the flow of white noise
    for steps in (10, 20, 40):
        errors.append(float((model._bands(images, noise, 0, steps) - exact).abs().mean()))
    assert errors[0] < 0.06
    assert errors[1] < errors[0] / 3  # of second order: a first-order solver halves
    assert errors[2] < errors[1] / 3
    model.size.fill_(0.05)  # each pixel is half the sum of three bands, with signs
    assert float((model.draw(images, [noise], 40) - 0.5).std()) == pytest.approx(0.05 * 3**0.5 / 2, rel=0.05)


def test_the_network_of_diffusion_learns_a_target_of_unit_variance():
    """Whatever the noise level, and whatever the contrast of the public images."""
    images, model = 0.5 + 0.05 * torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0)), zeroed()
    model.size.copy_(diffusion.sizes(images, 2))
    torch.testing.assert_close(model.size, torch.tensor([0.05, 0.025, 0.025]), rtol=0.1, atol=0)
    torch.manual_seed(0)
    found = torch.stack([diffusion.loss(model, images, 2) for _ in range(10)])
    assert abs(found.mean() - 1) < 0.03


def test_levels_of_noise_fall_from_the_largest():
    for steps in (1, 2, 6):
        found = diffusion.levels(steps)
        assert len(found) == steps
        assert found[0] == pytest.approx(diffusion.LARGEST)
        assert found == sorted(found, reverse=True)
    assert diffusion.levels(6)[-1] == pytest.approx(diffusion.SMALLEST)


@pytest.mark.parametrize(("halvings", "whole"), [(0, False), (1, True), (3, True)])
def test_a_u_net_sees_the_whole_image_of_any_side(halvings, whole):
    torch.manual_seed(0)
    made = network.build(replace(SMALL, detail="regression", detail_halvings=halvings), 3)
    images = torch.rand(1, 3, 23, 18)
    changed = images.clone()
    changed[..., -1, -1] += 0.5
    nothing = torch.empty(1, 0, 23, 18)
    moved = (made(changed, nothing, 0) - made(images, nothing, 0)).abs()
    assert moved.shape == (1, 3, 3, 23, 18)
    assert (moved[..., 0, 0].sum() > 0) == whole


def test_a_critic_makes_drawn_images_vivid_too(monkeypatch):
    monkeypatch.setattr(losses, "JOINS", 0.0)
    flat = torch.full((50, 1, 4, 4), 0.5) + 1e-4 * torch.arange(50).view(-1, 1, 1, 1)
    weights = network.fit_public(stripes(256), CRITIC, "cpu", silent)
    drawn = network.complete(CRITIC, weights, "cpu", flat, 2) - spread(flat, 2)
    assert drawn.abs().mean() > 0.15
    assert drawn.std(0).mean() > 0.15  # another draw for each image: the network uses its noise


def test_an_energy_score_beside_an_adversary_has_two_samples(monkeypatch):
    seen = []
    real = losses.energy_score
    monkeypatch.setattr(losses, "energy_score", lambda a, b, y: (seen.append((a, b, y)), real(a, b, y))[1])
    config = replace(CRITIC, detail_pixels="energy", train_steps=3, train_batch=2)
    network.fit_public(stripes(16), config, "cpu", silent)
    for first, second, truth in seen:
        assert first.shape == second.shape == truth.shape == (2, 1, 8, 8)
        assert not torch.equal(first, second)


def test_a_critic_learns_which_of_a_pair_is_real_and_teaches_the_drawn_one():
    torch.manual_seed(0)
    critic = Critic(2, 1e-3, "cpu", 8)
    real, drawn = torch.rand(2, 16, 2, 8, 8)
    real[:, 0] = real[:, 0].round()  # black or white
    before = critic.step(real, drawn)
    for _ in range(40):
        after = critic.step(real, drawn)
    assert after < before / 2
    drawn.requires_grad_()
    loss = critic.generator_loss(real, drawn)
    assert loss > 1
    loss.backward()
    assert drawn.grad is not None
    assert drawn.grad.abs().sum() > 0
    critic.optimizer.zero_grad()
    assert critic.generator_loss(real, real) == pytest.approx(0.6931, abs=1e-3)
    assert all(value.grad is None for value in critic.network.parameters())


def test_its_slopes_are_held_small(monkeypatch):
    monkeypatch.setattr("wavedp.upscalers.wavelet_detail.critic.PENALTY", 1e3)
    torch.manual_seed(0)
    critic = Critic(2, 1e-3, "cpu", 8)
    real, drawn = torch.rand(2, 16, 2, 8, 8)
    real[:, 0] = real[:, 0].round()
    for _ in range(40):
        loss = critic.step(real, drawn)
    assert loss > 0.6  # it may not tell them apart


def test_a_discriminator_that_sees_the_coarse_image_makes_the_drawn_ones_vivid(monkeypatch):
    """Every block is 0.5 ± 0.3 in truth, and its mean says the contrast but not the sign: least absolute error draws
    next to nothing, and the adversary wants the contrast back."""
    monkeypatch.setattr(losses, "JOINS", 0.0)
    images = stripes(256)
    flat = torch.full((50, 1, 4, 4), 0.5) + 1e-4 * torch.arange(50).view(-1, 1, 1, 1)
    contrast = {}
    for config in (REGRESSION, ADVERSARIAL):
        weights = network.fit_public(images, config, "cpu", silent)
        drawn = network.complete(config, weights, "cpu", flat, 2)
        contrast[config.detail] = float((drawn - spread(flat, 2)).abs().mean())
    assert contrast["regression"] < 0.1
    assert contrast["adversarial"] > 1.5 * contrast["regression"]  # 1.7 to 5 times, by CPU and threads


def test_the_discriminator_joins_late_and_the_perceptual_weight_counts(monkeypatch):
    steps: list[float] = []
    config = replace(ADVERSARIAL, train_steps=8, train_batch=2)
    real = losses.Adversary.step
    monkeypatch.setattr(losses.Adversary, "step", lambda self, *sets: (steps.append(1), real(self, *sets))[1])
    plain = network.fit_public(stripes(16), config, "cpu", silent)
    assert len(steps) == 4
    alike = network.fit_public(stripes(16), replace(config, detail_perceptual=1.0), "cpu", silent)
    assert any(not torch.equal(alike[name], value) for name, value in plain.items())


def test_the_learning_rate_rises_then_falls():
    rates = [network.rate(step / 1000) for step in range(1000)]
    assert max(rates) == 1
    assert rates[0] < 0.02
    assert rates[-1] < 0.06
    assert rates.index(1) <= 20


@pytest.mark.parametrize(("spread_of_samples", "best"), [(0.2, True), (0.05, False), (0.6, False)])
def test_the_energy_score_is_least_for_the_right_spread(spread_of_samples, best):
    generator = torch.Generator().manual_seed(0)
    truth, first, second = torch.randn(3, 400, 1, 8, 8, generator=generator)
    right = losses.energy_score(0.2 * first, 0.2 * second, 0.2 * truth)
    found = losses.energy_score(spread_of_samples * first, spread_of_samples * second, 0.2 * truth)
    assert torch.equal(found, right) if best else found > right * 1.02


def test_the_energy_score_sees_how_pixels_go_together():
    """Same distribution of each pixel, but rows that are not alike: scored worse, thanks to the larger patches."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 400, 1, 8, 1, generator=generator).expand(-1, -1, -1, -1, 8)
    loose = torch.randn(3, 400, 1, 8, 8, generator=generator)
    right = losses.energy_score(rows[0], rows[1], rows[2])
    assert losses.energy_score(loose[0], loose[1], rows[2]) > right * 1.02


def test_training_is_a_function_of_its_seed(trained):
    again = network.fit_public(stripes(256), SMALL, "cpu", silent)
    assert all(torch.equal(again[name], value) for name, value in trained["sampled"].items())
    other = network.fit_public(stripes(256), replace(SMALL, public_seed=1), "cpu", silent)
    assert any(not torch.equal(other[name], value) for name, value in trained["sampled"].items())


@pytest.mark.parametrize(("size", "levels"), [((28, 28), 2), ((256, 192), 3), ((7, 28), 0), ((10, 12), 1)])
def test_levels_that_are_trained(size, levels):
    assert network.trained_levels(size) == levels


def test_large_images_are_trained_on_crops(monkeypatch):
    seen = []
    real = losses.energy_score
    monkeypatch.setattr(losses, "energy_score", lambda a, b, y: (seen.append(tuple(y.shape)), real(a, b, y))[1])
    config = replace(SMALL, train_steps=3, train_batch=2)
    network.fit_public(torch.rand(4, 1, 96, 128), config, "cpu", silent)
    assert set(seen) == {(2, 1, network.CROP, network.CROP)}


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_keep_low_pass_for_any_factor(factor):
    images = coarse_scenes(2, 3, 5, 7)
    wild = torch.randn(2, 3, 5 * factor, 7 * factor, generator=torch.Generator().manual_seed(0))
    kept = keep_low_pass(wild, images)
    torch.testing.assert_close(F.avg_pool2d(kept, factor), images, atol=1e-6, rtol=0)
    assert kept.min() >= 0
    assert kept.max() <= 1
    calm = spread(images * 0.5 + 0.25, factor) + 0.01 * wild
    kept = keep_low_pass(calm, images * 0.5 + 0.25)  # room enough: the deviations are the drawn image's own
    torch.testing.assert_close(
        kept - spread(F.avg_pool2d(kept, factor), factor),
        calm - spread(F.avg_pool2d(calm, factor), factor),
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("name", ["nearest", "bicubic", "lanczos", "animevideov3_x2", "realsr_df2k_x4"])
def test_low_pass_consistency_is_an_option_of_every_upscaler(name):
    consistent = load(configure("upscaler", name, low_pass_consistency=True))
    check_upscaler(consistent, 2, block_mean_tolerance=1e-6)
    images, plain = coarse_scenes(1, 1, 7, 7), load(configure("upscaler", name))
    assert consistent.bridge(2) == plain.bridge(2)
    changed = (consistent.upscale(images, 2) - plain.upscale(images, 2)).abs().max()
    assert (changed < 1e-6) == (name == "nearest")  # which keeps block means by itself
