"""Sets of images as metrics see them: how many, how names say it, and features and pixels on demand.

One metric serves a trial, whose images are in memory and whose reference is an artifact, and the command, which reads
folders in chunks. Both give it views. Nothing here imports torch before it is used.

    n images of a view, C channels, H W pixels, D features
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.progress import Report, silent

if TYPE_CHECKING:  # plans are made without torch
    from torch import Tensor

Extract = Callable[..., Any]
"""extract(images, config, cache_dir, report, device): features n D float32 of uint8 images B C H W, on the CPU, such as
`wavedp.metrics.features.extract`."""

Rebuilt = Callable[[int], "Iterator[tuple[Tensor, Tensor]]"]
"""rebuilt(count): `count` real images of the reference in chunks, beside what stage two makes of their coarse images,
uint8 B C H W both."""

CHUNK = 500
"""Images that are looked at together; features are cached by so many (wavedp.metrics.features)."""

Job = Callable[[], Report]
"""Begins a piece of work and gives its report."""


def no_job() -> Report:
    """A piece of work whose progress nobody reads."""
    return silent


class Estimate(float):
    """A number that knows its standard error."""

    standard_error: float | None

    def __new__(cls, value: float, standard_error: float | None = None) -> Estimate:
        made = super().__new__(cls, value)
        made.standard_error = standard_error
        return made


@dataclass(frozen=True)
class Looking:
    """The setting in which features are taken: configuration, cache, device, and progress."""

    config: MetricsConfig
    cache: Path | None = None
    device: str = "cpu"
    job: Job = no_job


class View:
    """A set of images of which only the size is known. count: images. split: whose, for names; nothing for generated
    images. whole: all of their split. labels: int64 n, texts: n, or None."""

    def __init__(
        self,
        count: int,
        split: str = "",
        whole: bool = False,
        labels: Tensor | None = None,
        texts: Sequence[str] | None = None,
    ) -> None:
        self.count, self.split, self.whole, self.labels, self.texts = count, split, whole, labels, texts
        self._features: dict[Extract, Tensor] = {}

    @property
    def name(self) -> str:
        """This set in a metric's name: 1k, test for a whole split, test2k for a part of it."""
        return self.split if self.whole else f"{self.split}{count_name(self.count)}"

    def features(self, extract: Extract | None = None) -> Tensor:
        """n D float32, taken once: by the FID network (None), or as `extract` takes them."""
        if extract is None:
            from wavedp.metrics import features

            extract = features.extract
        if extract not in self._features:
            self._features[extract] = self._extract(extract)
        return self._features[extract]

    def images(self, which: Tensor) -> list[Tensor]:
        """Those images of the n, uint8 C H W each."""
        raise RuntimeError(f"the images of {self.name} are not here: only their number is")

    def stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in chunks of one shape: their places among the n, int64 B, and uint8 B C H W."""
        raise RuntimeError(f"the images of {self.name} are not here: only their number is")

    def _extract(self, extract: Extract) -> Tensor:
        raise RuntimeError(f"the images of {self.name} are not here: only their number is")


class Drawn:
    """Images of a tensor B C H W in another order, copied when some of them are asked for: by a slice, or by places.

    All of them together may be more than memory holds.
    """

    def __init__(self, images: Tensor, order: Tensor) -> None:
        self._images, self._order = images, order
        self.shape, self.ndim, self.dtype = (len(order), *images.shape[1:]), images.ndim, images.dtype

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        return self._images[self._order[which]]


class TensorView(View):
    """Images uint8 n C H W, in memory or drawn from what may be larger."""

    def __init__(self, images: Tensor | Drawn, looking: Looking, **about: Any) -> None:
        super().__init__(len(images), **about)
        self.pixels, self.looking = images, looking

    def images(self, which: Tensor) -> list[Tensor]:
        return list(self.pixels[which])

    def stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        for places in torch.arange(self.count).split(CHUNK):
            yield places, self.pixels[places]

    def _extract(self, extract: Extract) -> Tensor:
        import torch

        looking, tell = self.looking, self.looking.job()
        if not isinstance(self.pixels, Drawn):
            return extract(self.pixels, looking.config, looking.cache, tell, looking.device)
        parts: list[Tensor] = []
        for start in range(0, max(self.count, 1), CHUNK):  # so that `extract` gets tensors, if only an empty one

            def of_all(done: int, _: int, start: int = start) -> None:
                tell(start + done, self.count)

            chunk = self.pixels[start : start + CHUNK]
            parts.append(extract(chunk, looking.config, looking.cache, of_all, looking.device))
        return torch.cat(parts)


class Part(View):
    """Some images of another view, in the order of `which` (int64 n)."""

    def __init__(self, whole: View, which: Tensor) -> None:
        super().__init__(len(which), whole.split)
        self.of, self.which = whole, which

    def images(self, which: Tensor) -> list[Tensor]:
        return self.of.images(self.which[which])

    def stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        for places in torch.arange(self.count).split(CHUNK):
            for place, image in zip(places, self.images(places), strict=True):
                yield place[None], image[None]

    def _extract(self, extract: Extract) -> Tensor:
        return self.of.features(extract)[self.which]


class Real:
    """The real images that a metric's reference is made of. images: the real images that samples are compared with."""

    images: View
    config: MetricsConfig
    device: str

    def apart(self, count: int) -> tuple[View, View]:
        """Real images in two disjoint parts: `images` and up to `count` more of their split; or, where there are no
        more, `images` without at most `count` of them (half), and those. Raises UserError for too few."""
        raise NotImplementedError

    def split(self, name: str, count: int | None = None) -> View:
        """`count` images (None: all) of another split, one of the metric's `reference_splits`."""
        raise NotImplementedError


def _no_split(name: str) -> View:
    raise RuntimeError(f"the {name} split is not here: name it in test_splits")


@dataclass(frozen=True)
class Sets:
    """The images that a metric measures. samples: the generated images that are compared with real ones. everything:
    all generated images. real: the images of the reference, only their number. counts(split): number of real images of
    a split. split(name): real images of one of the metric's `test_splits`. rebuilt: None where there is no stage two.
    seed: for what is drawn at random. job(): begins a piece of work, for the progress."""

    config: MetricsConfig
    samples: View
    everything: View
    real: View
    counts: Callable[[str], int]
    split: Callable[[str], View] = field(default=_no_split)
    rebuilt: Rebuilt | None = None
    seed: int = 0
    device: str = "cpu"
    job: Job = no_job


class Tally:
    """One progress of several pieces of work, one after the other."""

    def __init__(self, pieces: Mapping[str, int], report: Report) -> None:
        self.total, self.report = sum(pieces.values()), report
        self.before = self.now = 0

    def job(self) -> Report:
        """The report of the next piece."""
        self.before += self.now
        self.now = 0

        def tell(done: int, _: int) -> None:
            self.now = done
            self.report(min(self.before + done, self.total), self.total)

        return tell

    def finish(self) -> None:
        """All is done, whatever was announced."""
        if self.before + self.now < self.total:
            self.report(self.total, self.total)


def draw(images: Tensor, count: int | None) -> Tensor:
    """`count` images (None: all) in one fixed random order: sets sorted by class would begin with one class.

    A larger count begins with the same images, so their cached features are found again.
    """
    return images[_order(len(images))[:count].to(images.device)]


def drawn(images: Tensor, count: int | None, skip: int = 0) -> Drawn:
    """`draw(images, count)` without its first `skip`, of which each image is copied when it is asked for."""
    return Drawn(images, _order(len(images))[skip:count])


def _order(count: int) -> Tensor:
    import torch

    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def count_name(n: int) -> str:
    """A number of images in a metric's name: 1000 -> 1k, 1500 -> 1500."""
    return f"{n // 1000}k" if n >= 1000 and n % 1000 == 0 else str(n)


def how(config: MetricsConfig) -> str:
    """The features of the FID network in a metric's name: clean, or clean-bf16."""
    return config.mode + ("-bf16" if config.precision == "bfloat16" else "")
