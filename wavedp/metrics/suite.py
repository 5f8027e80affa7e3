"""A trial's metrics: the reference of real images, then the numbers of its samples. `wavedp.metrics` says which.

Numbers are a function of the images, the configuration and, for classifiers, the seed. FID and its like compare
`metrics.fid_samples` samples, drawn evenly over their order; accuracies and texts use all.

    n reference images, B generated images, C channels, H W pixels
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.metrics import Given, check, chosen, reference_view, sees_real
from wavedp.metrics.views import Looking, Real, Rebuilt, Sets, Tally, TensorView, View, draw, drawn
from wavedp.progress import Report, silent

Load = Callable[[str], tuple[Tensor, Tensor | None]]
"""load(split): its real images uint8 N C H W, and labels int64 N or None."""


class RealTensors(Real):
    """The real side of a trial. images: `config.reference_samples` of the reference split, or all when it has fewer."""

    def __init__(self, config: MetricsConfig, load: Load, looking: Looking) -> None:
        self.config, self.device, self._load, self._looking = config, looking.device, load, looking
        self._splits: dict[tuple[str, int | None], View] = {}
        self._apart: dict[int, View] = {}
        self._pixels, self._labels = load(config.reference_split)
        size = reference_view(config, len(self._pixels))
        labels = None if self._labels is None else draw(self._labels, size.count)
        self.images = TensorView(
            drawn(self._pixels, size.count), looking, split=size.split, whole=size.whole, labels=labels
        )

    def apart(self, count: int) -> tuple[View, View]:
        used = self.images.count
        if count not in self._apart:
            further = drawn(self._pixels, used + count, used)
            self._apart[count] = TensorView(further, self._looking, split=self.images.split)
        return self.images, self._apart[count]

    def split(self, name: str, count: int | None = None) -> View:
        if (name, count) not in self._splits:
            pixels, labels = self._load(name)
            kept = None if labels is None else draw(labels, count)
            whole = count is None or count >= len(pixels)
            self._splits[name, count] = TensorView(
                drawn(pixels, count), self._looking, split=name, whole=whole, labels=kept
            )
        return self._splits[name, count]


def make_reference(
    load: Load, config: MetricsConfig, cache: Path | None = None, report: Report = silent, device: str = "cpu"
) -> dict[str, Tensor]:
    """The tensors that the metrics keep of real images, by name. `report(done, total)` counts images.

    Raises UserError as the metrics do, and where two would keep different tensors under one name.
    """
    shown = [(metric, own) for metric, own in chosen(config) if sees_real(metric, own)]
    real = RealTensors(config, load, Looking(config, cache, device))
    pieces: dict[str, int] = {}
    for metric, own in shown:
        pieces |= metric.reference_work(own, real)
    tally = Tally(pieces, report)
    real = RealTensors(config, load, Looking(config, cache, device, tally.job))
    found: dict[str, Tensor] = {}
    for metric, own in shown:
        for name, tensor in metric.reference(own, real).items():
            if name in found and not torch.equal(found[name], tensor):
                raise UserError(
                    f"metric {metric.name} keeps another tensor {name!r} than a metric before it: rename it."
                )
            found[name] = tensor
    tally.finish()
    return found


def evaluate(
    images: Tensor,
    labels: Tensor | None,
    reference: Mapping[str, Tensor],
    load: Load,
    counts: Callable[[str], int],
    config: MetricsConfig,
    seed: int,
    cache: Path | None = None,
    report: Report = silent,
    device: str = "cpu",
    texts: Sequence[str] | None = None,
    rebuild: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Measure generated `images`, uint8 [B C H W] with int64 labels [B] and texts, each or None; by full names.

    load: of the splits that metrics test on. counts(split): how many real images it has. `seed` moves the classifiers
    only. rebuild: what stage two makes of the coarse images of uint8 B C H W, uint8 too. `report(done, total)` counts
    images, optimiser steps and epochs together. Raises UserError as the metrics do.
    """
    n_classes = None if labels is None else len(labels.unique())
    shape = (images.shape[1], images.shape[2], images.shape[3])
    check(Given(config, counts, len(images), labels is not None, texts is not None, n_classes, shape))
    about, size = reference_view(config, counts(config.reference_split)), config.fid_samples
    looking = Looking(config, cache, device)
    chosen_labels = None if labels is None else draw(labels, size)
    chosen_texts = None if texts is None else [texts[place] for place in draw(torch.arange(len(images)), size).tolist()]
    sets = Sets(
        config,
        samples=TensorView(draw(images, size), looking, labels=chosen_labels, texts=chosen_texts),
        everything=TensorView(images, looking, labels=labels, texts=texts),
        real=about,
        counts=counts,
        seed=seed,
        device=device,
    )
    pieces: dict[str, int] = {}
    for metric, own in chosen(config):
        pieces |= metric.work(own, sets)
    tally = Tally(pieces, report)
    for view in (sets.samples, sets.everything):
        view.looking = replace(looking, job=tally.job)  # type: ignore[attr-defined]
    found: dict[str, float] = {}
    for metric, own in chosen(config):
        shown = sees_real(metric, own)
        splits = metric.test_splits(own, config) if shown else ()
        given = replace(
            sets,
            job=tally.job,
            split=_splits(load, splits, looking),
            rebuilt=_rebuilt(load, config, rebuild) if rebuild is not None and metric.rebuilds else None,
        )
        measured = metric.measure(own, given, reference if shown else {})
        if twice := set(found) & set(measured):
            raise UserError(f"two metrics give {twice.pop()}: leave one of them out of metrics.also.")
        found |= {name: float(value) for name, value in measured.items()}
    tally.finish()
    return found


def require_variety(images: Tensor, labels: Tensor) -> None:
    """Raises UserError for a trial's samples that are one and the same image, or one image for each class: numbers of
    such a set say nothing of a generator, and may be better than those of a sound one."""
    n_classes = len(labels.unique())
    distinct: set[bytes] = set()
    for image in images:
        distinct.add(hashlib.sha256(image.numpy().tobytes()).digest())
        if len(distinct) > n_classes:
            return
    if len(images) >= 2 * n_classes or len(distinct) == 1 < len(images):
        raise UserError(
            f"{len(images)} samples of {n_classes} class{'es' if n_classes > 1 else ''} hold {len(distinct)} distinct "
            f"image{'s' if len(distinct) > 1 else ''}, which have no distribution to measure: look at the samples, "
            "raise sampling.temperature, or lower a learning rate."
        )


def _rebuilt(load: Load, config: MetricsConfig, rebuild: Callable[[Tensor], Tensor]) -> Rebuilt:
    """The first images of the reference, a few at a time."""

    def rebuilt(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        images = drawn(load(config.reference_split)[0], count)
        for start in range(0, len(images), 20):
            part = images[start : start + 20]
            yield part, rebuild(part)

    return rebuilt


def _splits(load: Load, names: Sequence[str], looking: Looking) -> Callable[[str], View]:
    """Those splits that a metric has said it looks at, whole."""

    def split(name: str) -> View:
        if name not in names:
            raise RuntimeError(f"the {name} split is not here: name it in test_splits")
        pixels, labels = load(name)
        return TensorView(pixels, looking, split=name, whole=True, labels=labels)

    return split
