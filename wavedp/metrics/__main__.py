"""Measure one set of images against another, outside any study:

    python -m wavedp.metrics REAL GENERATED [--metrics fid kid ...] [--mode clean] [--samples N] [--json FILE]

REAL and GENERATED are folders, zips or npz files (wavedp.metrics.image_sets). Every line says how its number was made:

    fid_clean_2k_10k             Fréchet distance, 2,000 generated against 10,000 real images
    floor_fid_clean_2k_8k        the same between two disjoint parts of REAL: what a perfect generator would get
    fid_infinity_clean_2k_10k    extrapolated to infinitely many generated images, with the standard error of the line
    kid_clean_2k_10k             kernel distance, unbiased, of all images
    kid_subsets_clean_2k_10k     mean over 50 subsets of 1,000 (or all, of fewer) images, with its standard error
    precision_, recall_, density_, coverage_clean_2k_10k       k = 5 nearest neighbours; precision-k3_: --neighbours 3
    spectrum_2k_10k              radial power spectra: root mean square of log2 of their ratio, in octaves
    fd_effnetlite0_2k_10k        Fréchet distance of another network's features (--second-network)
    diversity_effnetlite0_500pairs_2k    mean LPIPS-style distance of 500 pairs of generated images, uncalibrated;
                                 _within: of pairs of one class (sub-folder); real_: the same of REAL
    memorised_clean_2k_10k_60k   share of the generated nearer to an image of --train than 99 % of REAL are, which here
                                 must be held out of training: 0.01 for who copies nothing (--sheet: the closest pairs)
    closer-to-train_clean_2k_5k_5k   share of the generated nearer to an image of --train than to one of as many of
                                 REAL, which must be held out of training: 0.5 for who copies nothing; -low, -high: its
                                 95 % interval; -fresh: the same of the rest of REAL, 0.5 if REAL is a fair control;
                                 nearest-train_, nearest-control_: the median distances
    is_clean_2k                  Inception score, by the last layer in the file --layer; is-s10_ with --splits 10
    fld_clean_2k_60k_10k         feature likelihood divergence of REAL, to a density around the generated, fitted to
                                 --train; fld-train_: of the training images
    lpips-diversity-all_vgg_500pairs_2k   mean LPIPS of pairs of generated images; -class: of pairs of one sub-folder
    lpips-rebuilt_vgg_2kpairs_2k mean LPIPS of files of one name, where GENERATED is REAL reduced and enlarged again
    text_clip3fa9c2d1_2k         mean cosine of generated images and --texts to a CLIP model on disk (--clip)
    clip_vitb32-3fa9c2d1_a-photo-depicts_x1_2k    the same with --prefix before each text, in a scale (--scale)

The metrics are those of a trial (wavedp.metrics); one of your own is named package.module:Class. Where a metric asks
for training images they are --train's, and REAL stands for the test images.

GigaGAN's FID on COCO, as LlamaGen takes it too, is that of 30,000 generated images of 256² and the folder val2014 as it
was unpacked: fid_clean_30k_40504-square256, by

    val2014 GENERATED --metrics fid --square 256

DPImageBench's numbers (wavedp.metrics.dpimagebench) are those of

    --mode pytorch --metrics fid prdc inception_score --neighbours 3 --layer FILE        its training images as REAL
    --mode pytorch --metrics fld --train TRAINING                                        its test images as REAL

Metrics look at REAL, and memorised_, closer-to-train_ and fld_ at the training images too. If those are sensitive, so
is every number printed here: publish it, and no ε covers that. A sheet shows the training images themselves. Only is_,
text_, clip_, lpips-diversity and diversity_ of GENERATED look at generated images only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from wavedp import registry
from wavedp.command import command
from wavedp.config import MetricsConfig, configure
from wavedp.data import picture
from wavedp.errors import UserError, nearest
from wavedp.metrics import Given, MetricMethod, image_sets
from wavedp.metrics.clip_score import PREFIX, SCALES
from wavedp.metrics.features import DIMENSIONS
from wavedp.metrics.fld import TEST
from wavedp.metrics.memorisation import save_sheet
from wavedp.metrics.memorised import TRAIN, Memorised
from wavedp.metrics.prdc import USUAL
from wavedp.metrics.views import Extract, Looking, Part, Real, Sets, View, draw
from wavedp.store import write_jsonl

CALLED = {
    "fid": "fid",
    "floor": "floor",
    "fid_infinity": "fid_infinity",
    "kid": "kid",
    "prdc": "prdc",
    "spectrum": "spectrum",
    "fd2": "fd",
    "diversity": "diversity",
    "memorisation": "memorised",
    "closer_to_train": "closer_to_train",
    "inception_score": "inception_score",
    "fld": "fld",
    "text": "text",
    "clip_score": "clip_score",
    "lpips_diversity": "lpips_diversity",
    "lpips_rebuilt": "lpips_rebuilt",
}
"""This command's names of the metrics, in the order of its rows."""

SHEET = 32  # pairs


class FileView(View):
    """The set at `path`, read in chunks; memory holds one chunk and 8 KiB of features an image. samples: so many of
    them (None: all), drawn evenly over the set. side: made square first (`image_sets.square`), which their name then
    says. Raises UserError for what cannot be read, and for fewer images."""

    def __init__(
        self,
        path: Path,
        looking: Looking,
        samples: int | None,
        drawn: bool = True,
        max_pixels: int = picture.MAX_PIXELS,
        side: int | None = None,
    ) -> None:
        n = image_sets.count(path, max_pixels)
        if samples is not None and n < samples:
            raise UserError(f"{path} holds {n} images, and --samples asks for {samples}: add some, or ask for fewer.")
        self.path, self.looking, self.max_pixels, self.side = path, looking, max_pixels, side
        self.kept = draw(torch.arange(n), samples) if drawn else torch.arange(n)  # places in the set
        labels = image_sets.labels(path, max_pixels)
        super().__init__(len(self.kept), labels=None if labels is None else labels[self.kept])

    @property
    def name(self) -> str:
        """2k; or 2k-square256 of images that were made square."""
        return super().name if self.side is None else f"{super().name}-square{self.side}"

    def images(self, which: Tensor) -> list[Tensor]:
        found = image_sets.pick(self.path, self.kept[which].tolist(), self.max_pixels)
        return found if self.side is None else [image_sets.square(image[None], self.side)[0] for image in found]

    def _chunks(self) -> Iterator[Tensor]:
        for chunk in image_sets.chunks(self.path, self.max_pixels):
            yield chunk if self.side is None else image_sets.square(chunk, self.side)

    def stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        places = torch.full((int(self.kept.max()) + 1,), -1)
        places[self.kept] = torch.arange(self.count)
        done = 0
        for chunk in self._chunks():
            here = places[done : done + len(chunk)]
            wanted = here >= 0
            if wanted.any():
                yield here[wanted], chunk[: len(here)][wanted]
            done += len(chunk)

    def _extract(self, extract: Extract) -> Tensor:
        looking, parts, done = self.looking, [], 0
        report = looking.job()

        def tell(now: int, _: int) -> None:
            report(done + now, done + now)

        for chunk in self._chunks():  # whole chunks, which the cache knows whatever is drawn
            parts.append(extract(chunk, looking.config, looking.cache, tell, looking.device))
            done += len(chunk)
        return torch.cat(parts)[self.kept]


class RealFiles(Real):
    """REAL, which is also the test split, and the training images."""

    def __init__(self, images: View, config: MetricsConfig, device: str, training: View | None) -> None:
        self.images, self.config, self.device, self.training = images, config, device, training

    def apart(self, count: int) -> tuple[View, View]:
        """At most half of REAL, drawn at random, stands for further images."""
        mixed = draw(torch.arange(self.images.count), None)
        count = min(count, len(mixed) // 2)
        if count < 2:
            raise UserError(f"{len(mixed)} real images have no two parts to compare: give four, or leave floor out.")
        return Part(self.images, mixed[count:]), Part(self.images, mixed[:count])

    def split(self, name: str, count: int | None = None) -> View:
        found = {TRAIN: self.training, TEST: self.images}.get(name)
        if found is None:
            raise UserError(f"a metric looks at the {name} split, which this command lacks: leave that metric out.")
        return found if count is None else Part(found, draw(torch.arange(found.count), count))


@dataclass(frozen=True)
class Row:
    """One number; standard_error is None where there is none."""

    metric: str
    value: float
    standard_error: float | None = None


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row a metric; 2 with one sentence when something cannot be read or measured."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.metrics",
        description="How far are generated images from real ones?",
        epilog="Numbers of different names are not comparable: counts, resize and precision change them.",
    )
    parser.add_argument("real", type=Path, help="folder, zip or npz")
    parser.add_argument("generated", type=Path, help="folder, zip or npz")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=["fid", "floor", "kid", "prdc"],
        metavar="METRIC",
        help=f"of {', '.join(CALLED)}, or package.module:Class of your own",
    )
    parser.add_argument(
        "--mode",
        choices=("clean", "pytorch", "tensorflow"),
        default="clean",
        help="resize of clean-fid, pytorch-fid or torch-fidelity",
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--square", type=int, metavar="SIDE", help="take the centre of REAL's images, by Lanczos to SIDE (COCO: 256)"
    )
    parser.add_argument("--samples", type=int, help="use so many of each set (default: all)")
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=picture.MAX_PIXELS,
        metavar="N",
        help=f"refuse larger images before they are decoded (default: {picture.MAX_PIXELS:,})",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cache", type=Path, help="keep features here, by content")
    parser.add_argument("--json", type=Path, help="write the rows to this file too, one JSON object a line")
    parser.add_argument(
        "--second-network",
        default="effnetlite0",
        help="of fd2: effnetlite0, a TorchScript file, or a folder with a Dinov2Model",
    )
    parser.add_argument("--neighbours", type=int, default=USUAL, metavar="K", help=f"of prdc (default: {USUAL})")
    parser.add_argument("--layer", type=Path, help="of inception_score: pytorch-fid's pt_inception-2015-12-05-….pth")
    parser.add_argument("--splits", type=int, default=1, help="of inception_score: parts to average (default: 1)")
    parser.add_argument(
        "--train", type=Path, help="of memorisation, closer_to_train and fld: what the generator was fitted to"
    )
    parser.add_argument("--sheet", type=Path, help="of memorisation: write the closest pairs to this PNG")
    parser.add_argument("--lpips", choices=("vgg", "alex", "squeeze"), default="vgg", help="network of lpips_…")
    parser.add_argument("--backbone", type=Path, help="of lpips_…: torchvision's file of the network's weights")
    parser.add_argument("--heads", type=Path, help="of lpips_…: the linear heads (default: of the package lpips)")
    parser.add_argument(
        "--clip", type=Path, help="of text and clip_score: folder of a CLIP model, as save_pretrained writes it"
    )
    parser.add_argument("--texts", type=Path, help="of both: file with a line for each image of GENERATED, by name")
    parser.add_argument("--prefix", default=PREFIX, help="of clip_score, before each text (default: '%(default)s')")
    parser.add_argument("--scale", choices=tuple(SCALES), default="x1", help="of clip_score: x2.5 is CLIPScore")
    options = parser.parse_args(arguments)
    try:
        rows, fewest = measure(options)
        if options.json:
            write_jsonl(options.json, [asdict(row) for row in rows])
    except OSError as error:
        print(f"{error.filename} cannot be written ({error.strerror}): name another file.", file=sys.stderr)
        return 2
    for row in rows:
        print(f"{row.metric:<40} {row.value:>10.5g}" + (f" ± {row.standard_error:.2g}" if row.standard_error else ""))
    if fewest <= DIMENSIONS and "fid" in options.metrics:
        print(
            f"With {fewest} images a covariance of {DIMENSIONS} features has rank {fewest - 1}: this FID is for "
            "comparisons at the same counts only."
        )
    return 0


def measure(options: argparse.Namespace) -> tuple[list[Row], int]:
    """The rows that the command was asked for, and how many images the smaller set has. Raises UserError."""
    if options.samples is not None and options.samples < 2:
        raise UserError(f"--samples={options.samples} leaves nothing to compare: ask for 2 or more.")
    _check_device(options.device)
    config, chosen = _config(options), _chosen(options)

    def files(path: Path, samples: int | None, drawn: bool = True, side: int | None = None) -> FileView:
        looking = Looking(config, options.cache, options.device, lambda: _counter(path))
        return FileView(path, looking, samples, drawn, options.max_pixels, side)

    if options.square is not None and options.square < 1:
        raise UserError(f"--square={options.square} is no size: give pixels a side, such as 256.")
    real, generated = (
        files(options.real, options.samples, side=options.square),
        files(options.generated, options.samples),
    )
    for view, whose in ((generated, "GENERATED"), (real, "REAL")):
        if view.count < 2:
            raise UserError(
                f"{whose} has {view.count} image, and a distance between distributions needs two: give more."
            )
    config = replace(config, fid_samples=generated.count)
    training = files(options.train, None) if options.train else None
    counts = {"": real.count, TEST: real.count, TRAIN: training.count if training else 0}
    reals = RealFiles(real, config, options.device, training)
    everything = files(options.generated, None, drawn=False)
    sets = Sets(
        config,
        generated,
        everything,
        real,
        counts.__getitem__,
        rebuilt=lambda count: _partners(options),
        device=options.device,
    )
    given = Given(config, counts.__getitem__, everything.count, everything.labels is not None, described=False)
    for metric, own in chosen:
        metric.require(own, given)
    rows = []
    for metric, own in chosen:
        reference = metric.reference(own, reals)
        for name, value in metric.measure(own, sets, reference).items():
            rows.append(Row(name, float(value), getattr(value, "standard_error", None)))
        if isinstance(metric, Memorised) and options.sheet and training:
            left, right = metric.compare(own, sets, reference).pairs[:SHEET].unbind(1)
            save_sheet(options.sheet, generated.images(left), training.images(right))
    if sys.stderr.isatty():
        print(file=sys.stderr)  # below the counter
    return rows, min(real.count, generated.count)


def _partners(options: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of REAL beside the files of the same names in GENERATED, whatever their suffix. Raises UserError for one
    without a partner, and for --samples."""
    if options.samples is not None:
        raise UserError("lpips_rebuilt compares files of one name, all of them: leave --samples or lpips_rebuilt out.")
    names = [image_sets.names(path, options.max_pixels) for path in (options.real, options.generated)]
    for path, mine, theirs in ((options.real, *names), (options.generated, *reversed(names))):
        found = {_stem(name) for name in theirs}
        alone = next((name for name in mine if _stem(name) not in found), None)
        if alone is not None or len(set(map(_stem, mine))) < len(mine):
            raise UserError(
                f"lpips_rebuilt compares files of one name, and {alone or 'a file'} of {path} has no partner of its "
                "own: give as many files, of the same names."
            )
    real, made = (image_sets.chunks(path, options.max_pixels) for path in (options.real, options.generated))
    for left, right in zip(real, made, strict=True):
        left = left if options.square is None else image_sets.square(left, options.square)
        yield from zip(left.split(20), right.split(20), strict=True)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _check_device(device: str) -> None:
    """Refuse a device that cannot add."""
    try:
        torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device={device} is not a device that works here: use cpu, or a GPU's name.") from error


def _config(options: argparse.Namespace) -> MetricsConfig:
    """The options as a trial's configuration."""
    config = replace(MetricsConfig(), mode=options.mode, precision=options.precision)
    if "fd2" not in options.metrics:
        return config
    packaged = options.second_network == "effnetlite0"
    return replace(
        config,
        second_network="effnetlite0" if packaged else "file",
        second_network_file=None if packaged else options.second_network,
    )


def _chosen(options: argparse.Namespace) -> list[tuple[MetricMethod, Any]]:
    """The metrics asked for and the Config of each, in the order of rows. Raises UserError for an unknown one, and for
    one whose option is missing."""
    for name in ("memorisation", "closer_to_train", "fld"):
        if name in options.metrics and options.train is None:
            raise UserError(f"{name} compares with the training images: name them with --train, or leave it out.")
    for name in ("text", "clip_score"):
        if name in options.metrics and (options.clip is None or options.texts is None):
            raise UserError(
                f"{name} needs a model and what the images should show: give --clip and --texts, or leave it out."
            )
    texts = {"clip": str(options.clip), "texts": str(options.texts)}
    files = {name: getattr(options, name) for name in ("backbone", "heads")}
    lpips = {"net": options.lpips, **{name: str(path) for name, path in files.items() if path}}
    own: dict[str, dict[str, Any]] = {
        "kid": {"subsets": 50},
        "prdc": {"k": options.neighbours},
        "inception_score": {"layer": str(options.layer) if options.layer else None, "splits": options.splits},
        "diversity": {"real": True},
        "text": texts,
        "clip_score": {**texts, "prefix": options.prefix, "scale": options.scale},
        "lpips_diversity": lpips,
        "lpips_rebuilt": {**lpips, "count": None},
    }
    order = [name for name in CALLED if name in options.metrics]
    order += [name for name in dict.fromkeys(options.metrics) if name not in CALLED]
    outside = [name for name in registry.names("metric") if registry.is_outside("metric", name)]
    found = []
    for name in order:
        known = CALLED.get(name, name)
        if name not in CALLED and ":" not in name and name not in outside:
            raise UserError(f"{name} is not a metric of this command: {nearest(name, CALLED, other='your own')}")
        found.append((registry.find("metric", known), configure("metric", known, **own.get(name, {}))))
    return found


def _counter(path: Path) -> Callable[[int, int], None]:
    """Progress on the error stream: in place on a terminal, every 500 images in a log."""
    live, said = sys.stderr.isatty(), 0

    def report(done: int, _: int) -> None:
        nonlocal said
        if live:
            print(f"\r{path}: {done} images", end="", file=sys.stderr, flush=True)
        elif done // image_sets.CHUNK > said:
            said = done // image_sets.CHUNK
            print(f"{path}: {done} images", file=sys.stderr, flush=True)

    return report


if __name__ == "__main__":
    sys.exit(main())
