"""Are generated images closer to the training images than to real images that nobody was trained on?

    share    of generated images whose nearest neighbour among as many training and held-out (control) images is a
             training image: 0.5 for a generator that has learned only the distribution, 1 for one that copies

A look at training images alone cannot tell copying from good quality: both bring generated images close to them. The
control set can, if it was drawn as the training set was; held-out images in the place of generated ones show whether it
was (their share is 0.5 then). The form is that of anonymeter's main attack and control attack (Statice, 1.1).

The share of a mean is random because real images were dealt to one set or the other at random, and many generated
images may have the same neighbour. So its interval counts real images: with c_k generated images nearest to image k,
Σ c_k = n, it is Wilson's 95 % interval for n² / Σ c_k² observations, which holds 0.5 in 95 of 100 random deals. A share
of 0.5 proves nothing: copies that the features do not detect pass. It is not a privacy test, and no ε covers it.

    n generated, m training, m control images, D features
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.metrics.memorisation import nearest

Z = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Closer:
    """share: in [0, 1], with its standard error and 95 % interval. to_train, to_control: the medians over generated
    images of the distance to the nearest image of each set."""

    share: float
    standard_error: float
    low: float
    high: float
    to_train: float
    to_control: float


def closer(generated: Tensor, training: Tensor, control: Tensor) -> Closer:
    """Compare features n D with m D and m D. Equal distances count half. Raises UserError for sets of other sizes: a
    larger one has nearer neighbours."""
    if len(training) != len(control) or not len(generated):
        raise UserError(
            f"{len(training)} training and {len(control)} control images are not comparable, to {len(generated)} "
            "generated ones: give as many of the first two."
        )
    to_train, neighbour = nearest(generated, training)
    to_control, other = nearest(generated, control)
    equal = torch.isclose(to_train, to_control, rtol=1e-6, atol=1e-9)
    hits = torch.where(equal, 0.5, (to_train < to_control).double())
    share = float(hits.mean())
    of = torch.where(hits > 0, neighbour, len(training) + other)
    observations = len(generated) ** 2 / float(of.bincount().double().square().sum())
    low, high = wilson(share, observations)
    error = (share * (1 - share) / observations) ** 0.5
    return Closer(share, error, low, high, float(to_train.median()), float(to_control.median()))


def wilson(share: float, observations: float) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    middle = (share + Z**2 / (2 * observations)) / (1 + Z**2 / observations)
    half = (share * (1 - share) / observations + Z**2 / (4 * observations**2)) ** 0.5 * Z / (1 + Z**2 / observations)
    return max(middle - half, 0.0), min(middle + half, 1.0)
