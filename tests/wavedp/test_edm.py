"""EDM's preconditioning and sampler, against diffusers' schedulers and against an exact denoiser."""

import math

import pytest
import torch
from diffusers import EDMEulerScheduler, HeunDiscreteScheduler

from wavedp.diffusion.edm import Churn, heun, preconditioning, sigmas, target

SIGMA_DATA = 3**-0.5


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + row) for row in range(count)]


def gaussian(mean, std):
    """The exact denoiser of data from N(mean, std²)."""
    return lambda x, sigma: mean + (x - mean) * std**2 / (std**2 + sigma**2)


@pytest.mark.parametrize("sigma_data", [SIGMA_DATA, 0.5])
def test_the_preconditioning_is_that_of_diffusers(sigma_data):
    theirs = EDMEulerScheduler(sigma_data=sigma_data)
    sigma = torch.tensor([0.002, 0.3, 1.0, 80.0]).view(-1, 1, 1, 1)
    x, output = torch.randn(2, 4, 1, 3, 3)
    c = preconditioning(sigma, sigma_data)
    torch.testing.assert_close(c.into * x, theirs.precondition_inputs(x, sigma))
    torch.testing.assert_close(c.noise, theirs.precondition_noise(sigma))
    torch.testing.assert_close(c.skip * x + c.out * output, theirs.precondition_outputs(x, output, sigma))


def test_the_target_gives_the_data_back_and_has_variance_1():
    data = SIGMA_DATA * torch.randn(4, 1, 50, 50, dtype=torch.float64)
    noise, sigma = torch.randn_like(data), torch.tensor([1e-3, 0.1, 1.0, 80.0], dtype=torch.float64).view(-1, 1, 1, 1)
    wanted, c = target(data, noise, sigma, SIGMA_DATA), preconditioning(sigma, SIGMA_DATA)
    torch.testing.assert_close(c.skip * (data + sigma * noise) + c.out * wanted, data)
    torch.testing.assert_close(wanted.std((1, 2, 3)), torch.ones(4, dtype=torch.float64), rtol=0.05, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 20, 1000])
def test_the_deviations_are_those_of_diffusers(steps):
    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    theirs.set_timesteps(steps)
    torch.testing.assert_close(sigmas(steps, 0.002, 80.0, 7.0).float(), theirs.sigmas, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps", [3, 12])
def test_without_churn_it_is_heuns_method_as_diffusers_have_it(steps):
    theirs = HeunDiscreteScheduler(use_karras_sigmas=True, prediction_type="sample")
    theirs.set_timesteps(steps)
    own = sigmas(steps, float(theirs.sigmas[-2]), float(theirs.sigmas[0]), 7.0)
    x = float(own[0]) * torch.randn(3, 1, 4, 4, dtype=torch.float64)

    def denoise(x, sigma):  # far from linear, so that the order of the method shows
        return torch.tanh(x / (1 + sigma)) + 0.1 * sigma * torch.cos(3 * x)

    expected = x
    for place, t in enumerate(theirs.timesteps):
        expected = theirs.step(denoise(expected, float(theirs.sigmas[place])), t, expected).prev_sample
    torch.testing.assert_close(heun(denoise, x, own, Churn(), []), expected, rtol=1e-4, atol=1e-4)


def test_churn_is_that_of_diffusers():
    """To a denoiser that is constant, both orders of the method go along the same line."""
    steps, churn = 8, Churn(amount=2.0, low=0.05, high=50.0, noise=1.003)
    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    theirs.set_timesteps(steps)
    x, data = 80 * torch.randn(2, 1, 4, 4), torch.rand(1, 1, 4, 4)
    own = heun(lambda x, sigma: data.double(), x, sigmas(steps, 0.002, 80.0, 7.0), churn, generators(2))
    rows = generators(2)
    expected = x
    for t in theirs.timesteps:
        theirs.scale_model_input(expected, t)
        expected = theirs.step(
            expected, t, expected, s_churn=2.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003, generator=rows,
            pred_original_sample=data,
        ).prev_sample  # fmt: skip
    torch.testing.assert_close(own.float(), expected, rtol=1e-4, atol=1e-4)
    for ours, other in zip(generators(2), rows, strict=True):
        heun(lambda x, sigma: x, x[:1], sigmas(steps, 0.002, 80.0, 7.0), churn, [ours])
        assert torch.equal(ours.get_state(), other.get_state()), "noise was drawn in other steps than there"


def test_an_exact_denoiser_gives_the_distribution_with_and_without_churn():
    for churn in (Churn(), Churn(10.0, 0.025, 50.0)):
        x = 80 * torch.randn(2000, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        found = heun(gaussian(0.3, 0.2), x, sigmas(80, 0.002, 80.0, 7.0), churn, generators(2000))
        assert float(found.mean()) == pytest.approx(0.3, abs=0.01)
        assert float(found.std()) == pytest.approx(0.2, rel=0.03)  # 8,000 numbers: 0.8 %, and the steps' own error


def test_it_is_of_second_order():
    """Twice the steps, a fourth of the error, for the exact solution of a normal distribution."""
    x = torch.full((1, 1, 1, 1), 80.0, dtype=torch.float64)
    # dx/dσ = x σ / (s² + σ²) from 80 down to 0
    exact = float(x) * 0.5 / math.sqrt(0.5**2 + 80**2)
    errors = [
        abs(float(heun(gaussian(0.0, 0.5), x, sigmas(steps, 0.002, 80.0, 7.0), Churn(), [])) - exact)
        for steps in (40, 80)
    ]
    assert 3 < errors[0] / errors[1] < 5


def test_the_same_noise_whatever_the_batch():
    levels, churn, x = sigmas(5, 0.002, 80.0, 7.0), Churn(10.0), 80 * torch.randn(4, 1, 2, 2)
    whole = heun(gaussian(0.3, 0.2), x, levels, churn, generators(4))
    torch.testing.assert_close(heun(gaussian(0.3, 0.2), x[2:], levels, churn, generators(4)[2:]), whole[2:])
