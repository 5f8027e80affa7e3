"""`dp_ntk`: its features. Its training is in test_mean_embedding.py, its privacy in test_one_release.py."""

import math

import pytest
import torch
from torch import nn

from wavedp.config import configure
from wavedp.generators.dp_ntk import model as room
from wavedp.generators.dp_ntk.model import DPNTKModel
from wavedp.testing.generators import GeneratorSuite

FEW = {"hidden": 8, "channels": 8, "train_steps": 3, "train_batch": 20}


class TestDPNTK(GeneratorSuite):
    other = {"channels": 16}  # noqa: RUF012

    def config(self):
        return configure("generator", "dp_ntk", **FEW)


def perceptron(public, outputs):
    """The network itself, with an output layer whose rows add up to v."""
    hidden = public["hidden"].double()
    width, size = hidden.shape[0], hidden.shape[1] - 1
    rows = torch.randn(outputs, width, dtype=torch.float64)
    rows += (public["output"].double() - rows.sum(0)) / outputs
    made = nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, outputs)).double()
    with torch.no_grad():
        for layer, weight, bias in ((made[0], hidden[:, :-1], hidden[:, -1]), (made[2], rows, made[2].bias)):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return made


def by_autograd(made, x):
    """The gradient of the outputs' sum by all weights, divided by its length, B P."""
    rows = []
    for image in x:
        found = torch.autograd.grad(made(image).sum(), list(made.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


@pytest.mark.parametrize("outputs", [1, 3])
def test_inner_products_are_those_of_autograds_gradients_of_the_network(outputs):
    """With one number times √K for each K equal parts of it."""
    public = room.network(20, 9, outputs)
    x = torch.rand(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = {name: tensor.double() for name, tensor in public.items()}
    own = room.mean_gradient(x[None], outputs, exact)
    assert own.shape == (5, 20 * (9 + 2) + 1)
    torch.manual_seed(0)
    gradients = by_autograd(perceptron(public, outputs), x)
    assert torch.allclose(own @ own.T, gradients @ gradients.T, atol=1e-12)
    assert torch.allclose(own.norm(dim=1), torch.ones(5, dtype=torch.float64), atol=1e-12)
    if outputs == 1:  # the same numbers, in another order
        assert torch.allclose(own.sort(1).values, gradients.sort(1).values, atol=1e-12)


def test_the_gradient_reaches_images_as_through_autograds_second_pass():
    public = {name: tensor.double() for name, tensor in room.network(12, 6, 1).items()}
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    made = perceptron(public, 1)
    outcome = room.mean_gradient(x[:, None], 1, public)[0].square().sum()
    (own,) = torch.autograd.grad(outcome, x)
    rows = []
    for image in x:
        found = torch.autograd.grad(made(image).sum(), list(made.parameters()), create_graph=True)
        vector = torch.cat([gradient.flatten() for gradient in found])
        rows.append(vector / vector.norm())
    (other,) = torch.autograd.grad(torch.stack(rows).mean(0).square().sum(), x)
    assert torch.allclose(own, other, atol=1e-10)
    assert float(other.norm()) > 0


def test_the_network_is_the_same_for_everyone_and_begins_as_torchs():
    torch.manual_seed(3)
    one = room.network(500, 36, 10)
    torch.manual_seed(4)
    two = room.network(500, 36, 10)
    assert all(torch.equal(one[name], two[name]) for name in one)
    layer = nn.Linear(36, 500)
    assert float(one["hidden"][:, :-1].std()) == pytest.approx(float(layer.weight.detach().std()), rel=0.02)
    assert float(one["hidden"][:, -1].abs().max()) == pytest.approx(1 / 6, rel=0.02)
    assert float(one["output"].std()) == pytest.approx(math.sqrt(10 / (3 * 500)), rel=0.1)


def test_a_mean_over_records_is_the_mean_of_their_features_however_they_are_cut():
    made = DPNTKModel(configure("generator", "dp_ntk", **FEW), (1, 3, 3), 2, "cpu")
    public, x = made.public(), torch.rand(11, 9)
    whole = made.summed(x, public)
    parts = sum(made.summed(row[None], public) for row in x)
    assert torch.allclose(whole, parts, atol=1e-12)
    assert not made.summed(x[:0], public).any()
