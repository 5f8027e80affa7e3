"""What a trial asks of its images, under names that say how each number was made.

    fid_clean-bf16_…        the same with features in bfloat16
    fid_clean_1k_test       Fréchet distance, clean-fid's resize, 1,000 generated images against the whole test split
    kid_clean_1k_test2k     kernel distance, 1,000 generated against 2,000 of the test split
    floor_fid_clean_1k_test2k    Fréchet distance of 1,000 real images of the split to 2,000 others of it
    fd_effnetlite0_1k_test2k     Fréchet distance of another network's features (wavedp.metrics.second_networks)
    acc_cnn400_2k_test      accuracy of a CNN after 400 steps on 2,000 generated images, on the whole test split
    acc_dpimagebench_60k_test    mean accuracy of DPImageBench's three classifiers (wavedp.metrics.dpimagebench), and
    acc_dpimagebench-resnet110_60k_test, -wrn40-4, -resnext29    each of them; `small` likewise

Numbers with different names are not comparable: FID falls with the sample count, the split and the resize change it.
The counts also say how well a covariance of 2,048 features is known: of n images it has rank n - 1, so that an FID of
2,048 or fewer is for comparisons at the same counts only.

    n reference images, B generated images, C channels, H W pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from wavedp.config import MetricsConfig
from wavedp.data.dataset import Split
from wavedp.errors import UserError
from wavedp.metrics import second_networks
from wavedp.metrics.downstream import downstream_accuracy
from wavedp.metrics.dpimagebench import FEWEST, PROTOCOLS, accuracies
from wavedp.metrics.features import extract, find_network
from wavedp.metrics.frechet import frechet_distance_of
from wavedp.metrics.kernel import kernel_distance_of
from wavedp.progress import Report, silent


@dataclass(frozen=True)
class Reference:
    """The real side of every metric. Built from sensitive images: using it is a line in the ledger.

    features: float32 [n 2048] of the images that FID and KID compare with. n_split: images in their split. images:
    uint8 [N C H W] and labels: int64 [N] or None, the whole split that downstream accuracy is tested on. others:
    float32 [m 2048] of images beyond the n, for the floor. second: float32 [n D] of the n images by the second network.
    """

    features: torch.Tensor
    n_split: int
    images: torch.Tensor
    labels: torch.Tensor | None
    others: torch.Tensor | None = None
    second: torch.Tensor | None = None


def make_reference(
    images: torch.Tensor,
    labels: torch.Tensor | None,
    config: MetricsConfig,
    cache_dir: Path | None = None,
    report: Report = silent,
    device: torch.device | str = "cpu",
) -> Reference:
    """Extract the features of `config.reference_samples` images of the split `images`, or of all when it has fewer;
    with `config.floor`, of up to `config.fid_samples` more.

    Raises UserError as `features.extract` and `second_networks.extract` do.
    """
    used, more = _reference_counts(config, len(images))
    chosen = draw(images, used + more)
    steps = (used + more) + (used if config.second_network else 0)
    features = extract(chosen[:used], config, cache_dir, lambda done, _: report(done, steps), device)
    others = second = None
    if config.floor:
        others = extract(chosen[used:], config, cache_dir, lambda done, _: report(used + done, steps), device)
    if config.second_network:

        def tell(done: int, _: int) -> None:
            report(used + more + done, steps)

        second = second_networks.extract(chosen[:used], config, cache_dir, tell, device)
    return Reference(features, len(images), images, labels, others, second)


def names(config: MetricsConfig, n_reference: int, n_generated: int) -> dict[str, str]:
    """The full name of each metric that `evaluate` gives, by its short name: fid, kid, floor, fd, acc, and of a
    protocol's classifiers acc-<classifier>.

    n_reference: images in the whole reference split. n_generated: images given to `evaluate`.
    """
    used, more = _reference_counts(config, n_reference)
    against = config.reference_split + ("" if used == n_reference else count_name(used))
    how = config.mode + ("-bf16" if config.precision == "bfloat16" else "")
    full = {"fid": f"fid_{how}_{count_name(config.fid_samples)}_{against}"}
    if config.kid:
        full["kid"] = f"kid_{how}_{count_name(config.fid_samples)}_{against}"
    if config.floor:
        part = _floor_part(config, used + more)
        rest = config.reference_split + count_name(used + more - part)
        full["floor"] = f"floor_fid_{how}_{count_name(part)}_{rest}"
    if config.second_network:
        full["fd"] = f"fd_{second_networks.name(config)}_{count_name(config.fid_samples)}_{against}"
    if measures_accuracy(config):
        of = f"cnn{config.downstream_steps}" if config.downstream == "cnn" else config.downstream
        tested = f"{count_name(n_generated)}_{downstream_split(config)}"
        full["acc"] = f"acc_{of}_{tested}"
        networks = PROTOCOLS[config.downstream].networks if config.downstream in PROTOCOLS else {}
        full |= {f"acc-{name}": f"acc_{of}-{name}_{tested}" for name in networks}
    return full


def primary(config: MetricsConfig, n_reference: int) -> str:
    """The name of the metric that searches minimise and figures draw: the FID."""
    return names(config, n_reference, config.fid_samples)["fid"]


def check(config: MetricsConfig, n_reference: int, n_generated: int, labelled: bool) -> None:
    """Refuse, before any training, what `evaluate` could not measure after it. Raises UserError.

    labelled: whether both the reference and the generated images have class labels.
    """
    find_network(config.inception)
    if config.second_network:
        second_networks.load(config, "cpu")
    if config.floor and sum(_reference_counts(config, n_reference)) < 4:
        raise UserError(
            f"metrics.floor=true needs two parts of two images, and the {config.reference_split} split has "
            f"{n_reference}: use more, or metrics.floor=false."
        )
    if config.fid_samples > n_generated:
        raise UserError(
            f"metrics.fid_samples={config.fid_samples} needs as many generated images, got {n_generated}: "
            "raise sampling.n or lower metrics.fid_samples."
        )
    if config.fid_samples < 2 or n_reference < 2 or config.reference_samples in (0, 1):
        raise UserError(
            f"FID needs two images on each side, got metrics.fid_samples={config.fid_samples}, "
            f"metrics.reference_samples={config.reference_samples} and a {config.reference_split} split of "
            f"{n_reference}: use more."
        )
    if measures_accuracy(config) and not labelled:
        raise UserError(
            f"metrics.downstream_steps={config.downstream_steps} and metrics.downstream={config.downstream} need class "
            "labels, which these images lack: set metrics.downstream=cnn and metrics.downstream_steps=0."
        )
    if config.downstream in PROTOCOLS and n_generated < FEWEST:
        raise UserError(
            f"metrics.downstream={config.downstream} learns from {FEWEST} images or more, got {n_generated}: raise "
            "sampling.n."
        )


def evaluate(
    images: torch.Tensor,
    labels: torch.Tensor | None,
    reference: Reference,
    config: MetricsConfig,
    seed: int,
    cache_dir: Path | None = None,
    report: Report = silent,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Measure generated `images`, uint8 [B C H W] with int64 labels [B] or None; the keys are those of `names`.

    FID and KID use `config.fid_samples` of them, drawn evenly over their order; the accuracy uses all; the floor uses
    none. `seed` moves the classifiers only. `report(done, total)` counts images and optimiser steps (or epochs)
    together. Raises UserError as `check`, `features.extract` and `second_networks.extract` do.
    """
    labelled = labels is not None and reference.labels is not None
    check(config, reference.n_split, len(images), labelled)
    measured = config.fid_samples * (2 if config.second_network else 1)
    total = measured + _downstream_work(config)

    def tell(before: int) -> Report:
        return lambda done, _: report(before + done, total)

    chosen = draw(images, config.fid_samples)
    features = extract(chosen, config, cache_dir, tell(0), device)
    values = {"fid": frechet_distance_of(features, reference.features)}
    if config.kid:
        values["kid"] = kernel_distance_of(features, reference.features)
    if config.floor and reference.others is not None:
        real = torch.cat([reference.features, reference.others])
        part = _floor_part(config, len(real))
        values["floor"] = frechet_distance_of(real[-part:], real[:-part])
    if config.second_network and reference.second is not None:
        second = second_networks.extract(chosen, config, cache_dir, tell(config.fid_samples), device)
        values["fd"] = frechet_distance_of(second, reference.second)
    if measures_accuracy(config) and labels is not None and reference.labels is not None:
        sets = (images, labels, reference.images, reference.labels)
        if config.downstream == "cnn":
            values["acc"] = downstream_accuracy(*sets, config.downstream_steps, seed, tell(measured), device)
        else:
            found = accuracies(*sets, PROTOCOLS[config.downstream], seed, tell(measured), device)
            values |= {f"acc-{name}": accuracy.test for name, accuracy in found.items()}
            values["acc"] = sum(accuracy.test for accuracy in found.values()) / len(found)
    full = names(config, reference.n_split, len(images))
    return {full[name]: value for name, value in values.items()}


def measures_accuracy(config: MetricsConfig) -> bool:
    """Whether a classifier learns from the generated images."""
    return config.downstream != "cnn" or config.downstream_steps > 0


def downstream_split(config: MetricsConfig) -> Split:
    """The real split that classifiers are tested on: the test split by a published protocol, whatever FID looks at."""
    return config.reference_split if config.downstream == "cnn" else "test"


def _downstream_work(config: MetricsConfig) -> int:
    """Optimiser steps of the CNN, or epochs of a protocol."""
    if config.downstream == "cnn":
        return config.downstream_steps
    return PROTOCOLS[config.downstream].epochs * len(PROTOCOLS[config.downstream].networks)


def draw(images: torch.Tensor, count: int | None) -> torch.Tensor:
    """`count` images (None: all) in one fixed random order: sets sorted by class would begin with one class.

    A larger count begins with the same images, so their cached features are found again.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order[:count].to(images.device)]


def _reference_counts(config: MetricsConfig, n_reference: int) -> tuple[int, int]:
    """How many images of a split of `n_reference` FID compares with, and how many more the floor looks at."""
    used = n_reference if config.reference_samples is None else min(config.reference_samples, n_reference)
    return used, min(config.fid_samples, n_reference - used) if config.floor else 0


def _floor_part(config: MetricsConfig, n: int) -> int:
    """How many of n real images play the generated ones: as many as those, or half where there are too few."""
    return min(config.fid_samples, n // 2)


def count_name(n: int) -> str:
    """How a metric's name says a number of images: 1000 -> 1k, 1500 -> 1500."""
    return f"{n // 1000}k" if n >= 1000 and n % 1000 == 0 else str(n)
