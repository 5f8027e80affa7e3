"""Overlap of two sets of features by k nearest neighbours: four measures of what FID combines in one number.

    precision  share of generated samples in the ball of some real one (fidelity)      Kynkäänniemi et al., 2019,
    recall     share of real samples in the ball of some generated one (diversity)     arXiv 1904.06991
    density    number of real balls a generated sample lies in, over k: may exceed 1   Naeem et al., 2020,
    coverage   share of real balls that hold a generated sample                        arXiv 2002.09797

A sample's ball reaches to its k-th nearest neighbour in its own set. The package of Naeem et al. is not used: it keeps
all n × n distances in memory and is no longer maintained.

    n real samples, m generated samples, D dimensions
"""

from __future__ import annotations

import torch

from wavedp.errors import UserError

ROWS = 1000
"""Rows of a distance matrix in memory at a time."""


def precision_recall_density_coverage(real: torch.Tensor, generated: torch.Tensor, k: int = 5) -> dict[str, float]:
    """Return the four measures by name, from features n D and m D. k: 5 as in Naeem et al. (3 in Kynkäänniemi et al.).

    Distances are Euclidean, in float64; a sample on the surface of a ball is in it. Raises UserError when a set has at
    most k samples.
    """
    real, generated = real.double(), generated.double()
    radii_real, radii_generated = _radii(real, k), _radii(generated, k)
    in_real = torch.zeros(len(generated))  # number of real balls that contain each generated sample
    reached, recalled = [], []
    for rows, radii in zip(real.split(ROWS), radii_real.split(ROWS), strict=True):
        distances = torch.cdist(rows, generated)  # b m
        inside = distances <= radii[:, None]
        in_real += inside.sum(0)
        reached.append(inside.any(1))
        recalled.append((distances <= radii_generated).any(1))
    return {
        "precision": float((in_real > 0).double().mean()),
        "recall": float(torch.cat(recalled).double().mean()),
        "density": float(in_real.double().mean() / k),
        "coverage": float(torch.cat(reached).double().mean()),
    }


def _radii(features: torch.Tensor, k: int) -> torch.Tensor:
    """Return the distance of each sample to its k-th nearest other sample, n."""
    if len(features) <= k:
        raise UserError(f"{len(features)} images have no {k} nearest neighbours each: give more than {k}.")
    parts = [torch.cdist(rows, features).kthvalue(k + 1, dim=1).values for rows in features.split(ROWS)]
    return torch.cat(parts)
