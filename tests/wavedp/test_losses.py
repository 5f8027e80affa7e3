"""The discriminator with all spectral norms at once, and both kinds of images in one pass, is the one of torch."""

from __future__ import annotations

import copy

import pytest
import torch

from wavedp.losses import Adversary


@pytest.fixture
def pair():
    """The two forms, from the same state."""
    torch.manual_seed(0)
    one_by_one, together = (Adversary(2, 4e-4, "cpu", together=form) for form in (False, True))
    together.load_state_dict(copy.deepcopy(one_by_one.state_dict()))
    return one_by_one, together


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def images(number: int) -> torch.Tensor:
    """Real and rebuilt ones, 2 B C h w."""
    return torch.rand(2, 6, 2, 12, 20, generator=torch.Generator().manual_seed(number))


def image_gradient(adversary: Adversary, shown: torch.Tensor) -> torch.Tensor:
    shown = shown.clone().requires_grad_()
    adversary.generator_loss(shown).backward()
    return shown.grad


def test_both_forms_learn_the_same(double, pair):
    """In float64: Adam moves a weight that has no gradient by the sign of its rounding, and float32 soon shows that."""
    for number in range(20):
        real, rebuilt = images(number)
        losses = [adversary.step(real, rebuilt) for adversary in pair]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=0)
        mine, theirs = (image_gradient(adversary, rebuilt) for adversary in pair)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    first, second = (adversary.network.state_dict() for adversary in pair)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-11)


def test_both_forms_have_the_same_gradients_in_float32(pair):
    real, rebuilt = images(0)
    losses = [adversary.step(real, rebuilt) for adversary in pair]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    for mine, theirs in zip(*(adversary.network.parameters() for adversary in pair), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=5e-5 * float(theirs.grad.abs().max()))


@pytest.mark.parametrize("first", [0, 1])
def test_either_form_goes_on_from_the_other(double, pair, first):
    """The singular vectors are in the state of both."""
    began, goes_on = pair[first], pair[1 - first]
    for number in range(3):
        began.step(*images(number))
    goes_on.load_state_dict(copy.deepcopy(began.state_dict()))
    losses = [adversary.step(*images(9)) for adversary in (began, goes_on)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("together", [False, True])
def test_the_discriminator_does_not_learn_from_the_generators_loss(pair, together):
    adversary = pair[together]
    adversary.step(*images(0))
    before = [parameter.grad.clone() for parameter in adversary.network.parameters()]
    image_gradient(adversary, images(1)[0])
    after = [parameter.grad for parameter in adversary.network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.requires_grad for parameter in adversary.network.parameters())
