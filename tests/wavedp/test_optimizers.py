"""DP-AdamBC: Adam without noise, an unbiased second moment under noise, and steps that noise does not shorten."""

import math

import pytest
import torch
from torch import nn

from wavedp.privacy.optimizers import LEAST, AdamBC, corrected_second_moment


def weight(size=50, value=0.0):
    return nn.Parameter(torch.full((size,), value))


def descend(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def gradients(steps, size, mean=0.0, std=1.0, seed=0):
    return mean + std * torch.randn(steps, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_without_noise_it_is_adam(scale):
    """The one difference, √v̂ for √v̂ + 1e-8, is at most 1e-8 / √v̂ of a step."""
    ours, theirs = weight(), weight()
    steps = scale * (gradients(40, 50) + 3)  # away from 0, so that √v̂ is near 3 scale
    ours = descend(AdamBC([ours], lr=1e-2, noise_std=0.0), ours, steps)
    theirs = descend(torch.optim.Adam([theirs], lr=1e-2), theirs, steps)
    assert float((ours - theirs).abs().max()) <= float(theirs.abs().max()) * (1e-8 / scale + 1e-5)
    assert float(theirs.abs().max()) > 0.1


def test_without_noise_a_vanishing_gradient_moves_little():
    ours = descend(AdamBC([parameter := weight()], lr=1.0, noise_std=0.0), parameter, torch.full((1, 50), 1e-12))
    assert float(ours.abs().max()) == pytest.approx(1e-12 / LEAST, rel=1e-4)


def test_second_moment_of_pure_noise_is_corrected_to_zero():
    """50,000 coordinates: without the correction, the mean would be s², 100 standard errors away."""
    noise_std, beta2 = 0.02, 0.999
    moment = torch.zeros(50_000)
    for step, gradient in enumerate(gradients(30, 50_000, std=noise_std), start=1):
        moment.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        corrected = corrected_second_moment(moment, step, noise_std, beta2)
        error = noise_std**2 * math.sqrt(2 / step / 50_000)
        assert abs(float(corrected.mean())) < 5 * error
    assert float(corrected.min()) < 0 < float(corrected.max())  # unbiased, not merely clipped


def test_the_floor_bounds_a_step_on_noise():
    noise_std, floor = 0.02, 0.3
    ours, theirs = weight(2000), weight(2000)
    optimizers = AdamBC([ours], lr=1.0, noise_std=noise_std, floor=floor), torch.optim.Adam([theirs], lr=1.0)
    for gradient in gradients(50, 2000, std=noise_std):
        before = ours.detach().clone(), theirs.detach().clone()
        descend(optimizers[0], ours, gradient[None])
        descend(optimizers[1], theirs, gradient[None])
        moved = (ours.detach() - before[0]).abs(), (theirs.detach() - before[1]).abs()
        assert bool((moved[0] <= moved[1] * math.sqrt(1 + 1 / floor**2) * 1.001 + 1e-6).all())
    assert bool((moved[0] >= moved[1] * 0.999 - 1e-6).all())  # nor is any shortened, once √v̂ is above the floor
    assert float((moved[0] / moved[1]).max()) > 3


def test_on_a_quadratic_under_heavy_noise_it_goes_further_than_adam():
    """Gradients of w²/2 from w = 0.1 under noise 10 times as large: Adam's step shrinks tenfold, ours by the floor."""

    def run(make):
        parameter = weight(5000, 0.1)
        optimizer = make([parameter])
        for noise in gradients(20, 5000):
            parameter.grad = parameter.detach() + noise
            optimizer.step()
        return float(parameter.detach().mean())

    adam = run(lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
    ours = run(lambda parameters: AdamBC(parameters, lr=1e-2, noise_std=1.0))
    assert 0 < ours < adam < 0.1
    assert 0.1 - ours > 1.3 * (0.1 - adam)


def test_state_survives_a_round_trip_to_the_bit():
    steps = gradients(10, 50)
    whole = descend(AdamBC([parameter := weight()], lr=1e-2, noise_std=0.5), parameter, steps)
    half = AdamBC([parameter := weight()], lr=1e-2, noise_std=0.5)
    descend(half, parameter, steps[:5])
    other = AdamBC([copy := nn.Parameter(parameter.detach().clone())], lr=1e-2, noise_std=0.5)
    other.load_state_dict(half.state_dict())
    assert all(isinstance(value, torch.Tensor) for value in half.state_dict()["state"][0].values())
    assert torch.equal(descend(other, copy, steps[5:]), whole)


def test_a_parameter_without_gradient_is_left_alone():
    used, unused = weight(), weight()
    optimizer = AdamBC([used, unused], lr=1.0, noise_std=0.0)
    descend(optimizer, used, gradients(2, 50))
    assert torch.equal(unused.detach(), torch.zeros(50))
    assert unused not in optimizer.state
