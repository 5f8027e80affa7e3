"""Membership inference on the released weights of a coarse generator, without access to the fit itself (black box).

    P images of a pool   m canaries of random pixels and labels   L tokens; a fair coin includes each image and canary

`attack` fits `spectral_ar` as a study does (public pretraining, DP-Adam, condition dropout), draws samples, and scores
every record by

    loss          log-likelihood of its tokens under the released weights
    guidance      conditional minus unconditional log-likelihood, the difference that classifier-free guidance uses
    calibrated    log-likelihood under the released weights minus that under the public ones, in which the difficulty of
                  a record cancels (Watson et al. 2022, arXiv 2111.08440)

Because coins decide membership, the one-run bounds of wavedp.audit.bounds apply to natural images too. The same attack
at ε = ∞ shows its power: if it finds nothing there, finding nothing under a budget means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor

from wavedp.audit.bounds import Scores
from wavedp.config import PrivacyConfig, SamplingConfig, configure
from wavedp.full_precision import Precision
from wavedp.generators import FitSettings
from wavedp.generators.spectral_ar.model import SpectralARModel
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import Report, silent
from wavedp.seeds import derive_seed
from wavedp.tokenizers.scalar.model import ScalarTokenizer

SCORES = ("loss", "guidance", "calibrated")
RESAMPLES = 400
SHUFFLES = 499


@dataclass(frozen=True)
class Pool:
    """Natural images B C h w in [0, 1] with labels, candidates for the fit, and public ones for pretraining."""

    images: Tensor
    labels: Tensor
    public_images: Tensor
    public_labels: Tensor
    n_classes: int


@dataclass(frozen=True)
class Attack:
    """scores: by kind of record (`images`, `canaries`) and of score. nearest: see `nearness`. spent: ε of mechanism."""

    scores: dict[tuple[str, str], Scores]
    nearest: dict[str, float]
    mechanism: Mechanism
    spent: float
    n_records: int


@dataclass(frozen=True)
class Estimate:
    """An estimate and the ends of its two-sided 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AttackSetting:
    """canaries, samples: numbers of them. rate, steps: q and T of the fit. pretrain_steps: of the public pretraining.
    precision: of the fit. All other settings of the fit are the defaults of a study."""

    canaries: int = 500
    samples: int = 500
    rate: float = 0.25
    steps: int = 60
    pretrain_steps: int = 60
    precision: Precision = "float32"


def attack(
    pool: Pool, epsilon: float, delta: float, setting: AttackSetting, seed: int, report: Report = silent
) -> Attack:
    """Fit, sample and score as the module describes. epsilon: inf for the fit without privacy."""
    canaries, n_samples = setting.canaries, setting.samples
    rng = np.random.default_rng(derive_seed(seed, "audit", "membership"))
    images = torch.cat([pool.images, torch.from_numpy(rng.random((canaries, *pool.images.shape[1:]))).float()])
    labels = torch.cat([pool.labels, torch.from_numpy(rng.integers(pool.n_classes, size=canaries))])
    coins = torch.from_numpy(rng.random(len(images)) < 0.5)
    natural = torch.arange(len(images)) < len(pool.images)

    shape = tuple(pool.images.shape[1:])
    tokenizer = ScalarTokenizer(configure("tokenizer", "scalar"), shape)  # type: ignore[arg-type]
    config = configure(
        "generator", "spectral_ar", condition_dropout=0.1, pretrain_steps=setting.pretrain_steps, depth=1
    )
    made = SpectralARModel(config, tokenizer, tokenizer, pool.n_classes, "cpu")
    public = made.fit_public(pool.public_images, pool.public_labels, seed, silent)
    n_records = int(coins.sum())
    privacy = PrivacyConfig(
        epsilon=epsilon,
        delta=delta,
        batch_size=max(1, round(setting.rate * n_records)),
        steps=setting.steps,
        microbatch_size=256,
        grad_sample_mode="bookkeeping",
        precision=setting.precision,
    )
    with TemporaryDirectory() as folder:
        (planned,) = accounting.mechanisms(privacy, n_records)
        own_seed = derive_seed(seed, "audit", "private_fit")
        checkpoint = Path(folder, "checkpoint.safetensors")
        settings = FitSettings(privacy, {"private_fit": planned}, own_seed, checkpoint)
        fit = made.fit_private(public, images[coins], labels[coins], settings, report)
    found = made.log_likelihoods(fit.weights, images, labels)
    before = made.log_likelihoods(public, images, labels)
    values = {"loss": found[0], "guidance": found[0] - found[1], "calibrated": found[0] - before[0]}
    scores = {
        (kind, name): Scores(values[name][(rows & coins).numpy()], values[name][(rows & ~coins).numpy()])
        for kind, rows in (("images", natural), ("canaries", ~natural))
        for name in SCORES
        if rows.any()
    }
    shown = torch.arange(n_samples) % pool.n_classes
    samples = made.sample(fit.weights, shown, SamplingConfig(n=n_samples, temperature=1.0), seed, silent)
    near = nearness(samples, images[coins & natural], images[~coins & natural])
    mechanism = fit.mechanisms["private_fit"]
    spent = accounting.compose([mechanism], accounting.delta(privacy, n_records))
    return Attack(scores, near, mechanism, spent, n_records)


def auc(scores: Scores) -> Estimate:
    """The probability that an included record scores above an excluded one, ties half; bootstrap over both."""
    return _bootstrapped(scores, _auc)


def tpr_at(scores: Scores, fpr: float) -> Estimate:
    """The share of included records above the threshold that at most `fpr` of the excluded ones exceed; bootstrap."""
    return _bootstrapped(scores, lambda included, excluded: _tpr(included, excluded, fpr))


def roc(scores: Scores, points: int = 80) -> tuple[list[float], list[float]]:
    """FPR and TPR at thresholds whose FPRs are spaced geometrically, ascending, from (0, 0) to (1, 1)."""
    excluded, included = np.sort(scores.excluded), np.sort(scores.included)
    ranks = np.unique(np.geomspace(1, len(excluded), points).round().astype(int))
    thresholds = excluded[len(excluded) - ranks]
    above = [1 - np.searchsorted(part, thresholds) / len(part) for part in (excluded, included)]
    return tuple([0.0, *(float(f"{x:.6g}") for x in axis), 1.0] for axis in above)  # type: ignore[return-value]


def nearness(samples: Tensor, members: Tensor, others: Tensor) -> dict[str, float]:
    """Distances from samples to the records of the fit and to as many others: Euclidean over pixels, to the nearest
    record of each kind, averaged over samples.

    chance_low, chance_high: range of 95 % of the differences if the same records are shuffled into two kinds. p_value:
    share of shuffles with a difference as large. This test is exact because coins decided membership; an interval over
    samples would not be, because all samples share the records.
    """
    count = min(len(members), len(others))
    records = torch.cat([members[:count], others[:count]])
    distances = torch.cdist(samples.flatten(1), records.flatten(1))
    generator = torch.Generator().manual_seed(0)
    shuffles = [torch.arange(2 * count)] + [torch.randperm(2 * count, generator=generator) for _ in range(SHUFFLES)]
    nearest = [[float(distances[:, part].min(1).values.double().mean()) for part in s.split(count)] for s in shuffles]
    (to_members, to_others), *_ = nearest
    difference, *shuffled = (other - member for member, other in nearest)
    low, high = np.quantile(shuffled, [0.025, 0.975])
    return {
        "distance_to_members": to_members,
        "distance_to_others": to_others,
        "ratio": to_members / to_others,
        "difference": difference,
        "chance_low": float(low),
        "chance_high": float(high),
        "p_value": (1 + sum(one >= difference for one in shuffled)) / (1 + SHUFFLES),
        "samples": len(samples),
        "records_of_each": count,
    }


def _auc(included: np.ndarray, excluded: np.ndarray) -> float:
    ordered = np.sort(excluded)
    below, not_above = (np.searchsorted(ordered, included, side=side) for side in ("left", "right"))  # type: ignore
    return float((below + not_above).mean() / (2 * len(excluded)))


def _tpr(included: np.ndarray, excluded: np.ndarray, fpr: float) -> float:
    allowed = int(fpr * len(excluded))
    threshold = np.sort(excluded)[len(excluded) - 1 - allowed]
    return float((included > threshold).mean())


def _bootstrapped(scores: Scores, statistic) -> Estimate:  # type: ignore[no-untyped-def]
    found = bootstrap(
        (scores.included, scores.excluded),
        statistic,
        vectorized=False,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(statistic(scores.included, scores.excluded), float(found.low), float(found.high))
