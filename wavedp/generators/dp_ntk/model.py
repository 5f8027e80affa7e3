"""DP-NTK's features: the gradient of an untrained network by its weights, at an image.

    D = C h w  numbers of an image   H  hidden units   K  classes   d = H (D + 2) + 1  features   b  images of a class

The network has weights W, H D, biases c, and K outputs, whose sum is taken ("sum of logits": Mohamadi, Bae and
Sutherland, ICML 2023, arXiv 2206.12543); v is the sum of the output layer's K rows:

    f(x) = v · relu(a) + Σ c',   a = W x + c.

Its gradient by all weights has the numbers

    relu(a)                  by each of K output rows, K equal parts: H numbers times √K here, of the same length
    v 1[a > 0] (x, 1)        by W and c, H (D + 1)
    1                        by each of K output biases: √K

and φ(x) is that vector divided by its length, so that |φ(x)| = 1 for every x, and nothing is clipped. The √K instead of
equal copies leaves every inner product as it is, and noise of one number where copies would have had K independent ones
of which their mean counts. Through 1[a > 0] no gradient passes to the image.

The mean of φ over images is two products of matrices: no image's d numbers are ever in memory.

Release, sensitivity and training: wavedp.generators.mean_embedding.model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavedp.generators.dp_ntk import PURPOSE
from wavedp.generators.mean_embedding.model import MeanEmbeddingModel
from wavedp.methods import Weights
from wavedp.seeds import derive_seed


class DPNTKModel(MeanEmbeddingModel):
    """Its public tensors are `hidden`, (W, c), and `output`, v."""

    purpose = PURPOSE

    @property
    def size(self) -> int:
        """d."""
        return int(self.config.hidden) * (math.prod(self.shape) + 2) + 1

    def public(self) -> Weights:
        """(W, c), H (D+1), and v, H."""
        return network(self.config.hidden, math.prod(self.shape), self.n_classes)

    def summed(self, pixels: Tensor, public: Weights) -> Tensor:
        """Σφ, in float64 throughout."""
        exact = {name: tensor.double() for name, tensor in public.items()}
        return len(pixels) * mean_gradient(pixels.double()[:, None], self.n_classes, exact)[0]

    def means(self, images: Tensor, each: int, public: Weights) -> Tensor:
        """K d."""
        return mean_gradient(images.view(each, self.n_classes, -1), self.n_classes, public)


def network(width: int, size: int, outputs: int) -> Weights:
    """`hidden` H (D+1) and `output` H, as torch's linear layers begin: uniform within 1 / √(numbers that come in).
    Public, the same for every study."""
    generator = torch.Generator().manual_seed(derive_seed(0, "dp_ntk", "network"))

    def uniform(*shape: int, inputs: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / math.sqrt(inputs)

    return {
        "hidden": uniform(width, size + 1, inputs=size),
        "output": uniform(outputs, width, inputs=width).sum(0),
    }


def mean_gradient(pixels: Tensor, outputs: int, public: Weights) -> Tensor:
    """The mean over b of φ(x), G d, of images b G D in [0, 1]; zeros of none. outputs: K."""
    root = math.sqrt(outputs)
    x = torch.cat([pixels, pixels.new_ones(*pixels.shape[:2], 1)], dim=2)  # b G D+1
    a = x @ public["hidden"].T  # b G H
    gates = public["output"] * (a > 0)
    above = root * a.relu()
    lengths = (above.square().sum(2) + gates.square().sum(2) * x.square().sum(2) + outputs).sqrt()[..., None]
    count = max(len(pixels), 1)
    by_hidden = torch.einsum("bgh,bgd->ghd", gates / lengths, x).flatten(1) / count
    return torch.cat([(above / lengths).sum(0) / count, by_hidden, (root / lengths).sum(0) / count], dim=1)
