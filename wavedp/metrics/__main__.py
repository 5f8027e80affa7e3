"""Measure one set of images against another, outside any study:

    python -m wavedp.metrics REAL GENERATED [--metrics fid kid ...] [--mode clean] [--samples N] [--json FILE]

REAL and GENERATED are folders, zips or npz files (wavedp.metrics.image_sets). Every line says how its number was made:

    fid_clean_2k_10k             Fréchet distance, 2,000 generated against 10,000 real images
    floor_fid_clean_2k_8k        the same between two disjoint parts of REAL: what a perfect generator would get
    fid_infinity_clean_2k_10k    extrapolated to infinitely many generated images, with the standard error of the line
    kid_clean_2k_10k             kernel distance, unbiased, of all images
    kid_subsets_clean_2k_10k     mean over 50 subsets of 1,000 (or all, of fewer) images, with its standard error
    precision_, recall_, density_, coverage_clean_2k_10k       k = 5 nearest neighbours
    spectrum_2k_10k              radial power spectra: root mean square of log2 of their ratio, in octaves
    fd_effnetlite0_2k_10k        Fréchet distance of another network's features (--second-network)
    diversity_effnetlite0_500pairs_2k    mean LPIPS-style distance of 500 pairs of generated images, uncalibrated;
                                 _within: of pairs of one class (sub-folder); real_: the same of REAL
    memorised_clean_2k_10k_60k   share of the generated nearer to an image of --train than 99 % of REAL are, which here
                                 must be held out of training: 0.01 for who copies nothing (--sheet: the closest pairs)
    text_clip3fa9c2d1_2k         mean cosine of generated images and --texts to a CLIP model on disk (--clip)

Metrics look at REAL, and memorised_ at the training images too. If those are sensitive, so is every number printed
here: publish it, and no ε covers that. A sheet shows the training images themselves. Only text_ and diversity_ of
GENERATED look at generated images alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.metrics import image_sets, second_networks
from wavedp.metrics.alignment import text_alignment, weights_name
from wavedp.metrics.diversity import mean_distance, pairs
from wavedp.metrics.features import DIMENSIONS, extract
from wavedp.metrics.frechet import frechet_distance_at_infinity, frechet_distance_of
from wavedp.metrics.kernel import kernel_distance_in_subsets, kernel_distance_of
from wavedp.metrics.memorisation import memorisation, save_sheet
from wavedp.metrics.neighbours import precision_recall_density_coverage
from wavedp.metrics.spectrum import band_powers
from wavedp.metrics.suite import count_name, draw
from wavedp.store import write_jsonl

METRICS = ("fid", "floor", "fid_infinity", "kid", "prdc", "spectrum", "fd2", "diversity", "memorisation", "text")
FROM_FEATURES = METRICS[:7]
SHEET = 32  # pairs


@dataclass(frozen=True)
class ImageSet:
    """What is kept of the set at `path`. features: n 2048 float32. powers: radial spectra n F, None if images differ in
    size. second: n D by the second network. kept: n, which images of the set these are."""

    path: Path
    features: Tensor
    powers: Tensor | None
    second: Tensor | None
    kept: Tensor

    def images(self, which: Tensor) -> list[Tensor]:
        """Those images of the n, uint8 C H W: the set is read again."""
        return image_sets.pick(self.path, self.kept[which].tolist())


@dataclass(frozen=True)
class Row:
    """One number; standard_error is None where there is none."""

    metric: str
    value: float
    standard_error: float | None = None


def look(
    path: Path,
    config: MetricsConfig,
    samples: int | None,
    device: str,
    cache: Path | None,
    report: Callable[[int], None],
) -> ImageSet:
    """Features and spectra of the set at `path`, chunk by chunk; memory holds one chunk and 8 KiB an image.

    samples: keep so many, drawn evenly over the set (None: all). report(done): images. Raises UserError for what cannot
    be read and for fewer images than `samples`.
    """
    features, powers, second, done = [], [], [], 0

    def tell(now: int, _: int) -> None:
        report(done + now)

    for chunk in image_sets.chunks(path):
        features.append(extract(chunk, config, cache, tell, device))
        powers.append(band_powers(chunk))
        if config.second_network:
            second.append(second_networks.extract(chunk, config, cache, device=device))
        done += len(chunk)
    if samples is not None and done < samples:
        raise UserError(f"{path} holds {done} images, and --samples asks for {samples}: add some, or ask for fewer.")
    same = len({spectra.shape[1] for spectra in powers}) == 1
    return ImageSet(
        path,
        draw(torch.cat(features), samples),
        draw(torch.cat(powers), samples) if same else None,
        draw(torch.cat(second), samples) if second else None,
        draw(torch.arange(done), samples),
    )


def measure(real: ImageSet, generated: ImageSet, chosen: Sequence[str], config: MetricsConfig) -> list[Row]:
    """The rows of the metrics `chosen`, names of FROM_FEATURES. Raises UserError where one cannot be had."""
    n, m = len(generated.features), len(real.features)
    for found, whose in ((n, "GENERATED"), (m, "REAL")):
        if found < 2:
            raise UserError(f"{whose} has {found} image, and a distance between distributions needs two: give more.")
    how = config.mode + ("-bf16" if config.precision == "bfloat16" else "")
    size = f"{count_name(n)}_{count_name(m)}"
    both = generated.features, real.features
    rows = []
    if "fid" in chosen:
        rows.append(Row(f"fid_{how}_{size}", frechet_distance_of(*both)))
    if "floor" in chosen:
        part, rest = _apart(real.features, n)
        name = f"floor_fid_{how}_{count_name(len(part))}_{count_name(len(rest))}"
        rows.append(Row(name, frechet_distance_of(part, rest)))
    if "fid_infinity" in chosen:
        rows.append(Row(f"fid_infinity_{how}_{size}", *frechet_distance_at_infinity(*both)))
    if "kid" in chosen:
        rows.append(Row(f"kid_{how}_{size}", kernel_distance_of(*both)))
        rows.append(Row(f"kid_subsets_{how}_{size}", *kernel_distance_in_subsets(*both, subsets=50)))
    if "prdc" in chosen:
        shares = precision_recall_density_coverage(real.features, generated.features)
        rows += [Row(f"{share}_{how}_{size}", value) for share, value in shares.items()]
    if "spectrum" in chosen:
        rows.append(Row(f"spectrum_{size}", spectral_distance(generated.powers, real.powers)))
    if "fd2" in chosen and generated.second is not None and real.second is not None:
        name = f"fd_{second_networks.name(config)}_{size}"
        rows.append(Row(name, frechet_distance_of(generated.second, real.second)))
    return rows


def diversity(chosen: ImageSet, of: str, device: str) -> list[Row]:
    """LPIPS-style distances within a set, over all and, where it has classes, within them. of: `real_`, or nothing for
    generated images. Raises UserError for a set of several sizes."""
    if chosen.powers is None:
        raise UserError(f"Diversity needs all images of {chosen.path} in one size: resize them, or leave it out.")
    rows, labels = [], image_sets.labels(chosen.path)
    kinds = {"": torch.zeros(len(chosen.kept)), **({} if labels is None else {"_within": labels[chosen.kept]})}
    for kind, label in kinds.items():
        which = pairs(label)
        name = f"{of}diversity{kind}_effnetlite0_{len(which)}pairs_{count_name(len(chosen.kept))}"
        rows.append(Row(name, *mean_distance(chosen.images, which, device)))
    return rows


def memorised(generated: ImageSet, real: ImageSet, training: ImageSet, how: str, sheet: Path | None) -> Row:
    """The share of copies, as `metrics.memorisation` has it; the closest pairs go to the picture `sheet`."""
    found = memorisation(generated.features, training.features, real.features)
    if sheet:
        left, right = found.pairs[:SHEET].unbind(1)
        save_sheet(sheet, generated.images(left), training.images(right))
    sizes = "_".join(count_name(len(each.features)) for each in (generated, real, training))
    return Row(f"memorised_{how}_{sizes}", found.share, found.standard_error)


def alignment(path: Path, texts: Path, folder: Path, device: str) -> Row:
    """Mean cosine of the images at `path` and the lines of `texts`, by the CLIP model in `folder`. Raises UserError."""
    try:
        lines = texts.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{texts} cannot be read ({error}): give a file with a text a line, one an image.") from error
    name = f"text_clip{weights_name(folder)}_{count_name(len(lines))}"
    return Row(name, *text_alignment(image_sets.chunks(path), lines, folder, device))


def spectral_distance(left: Tensor | None, right: Tensor | None) -> float:
    """Root mean square over bands of log2 of the ratio of mean powers, in octaves, from n1 F and n2 F; 0 for equal
    spectra. Raises UserError for sets of different or mixed sizes."""
    if left is None or right is None or left.shape[1] != right.shape[1]:
        raise UserError("Spectra need all images of both sets in one size: resize them, or leave spectrum out.")
    octaves = (left.mean(0).clamp(min=1e-12) / right.mean(0).clamp(min=1e-12)).log2()
    return float(octaves.square().mean().sqrt())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row a metric; 2 with one sentence when something cannot be read or measured."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.metrics",
        description="How far are generated images from real ones?",
        epilog="Numbers of different names are not comparable: counts, resize and precision change them.",
    )
    parser.add_argument("real", type=Path, help="folder, zip or npz")
    parser.add_argument("generated", type=Path, help="folder, zip or npz")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=["fid", "floor", "kid", "prdc"])
    parser.add_argument(
        "--mode",
        choices=("clean", "pytorch", "tensorflow"),
        default="clean",
        help="resize of clean-fid, pytorch-fid or torch-fidelity",
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--samples", type=int, help="use so many of each set (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cache", type=Path, help="keep features here, by content")
    parser.add_argument("--json", type=Path, help="write the rows to this file too, one JSON object a line")
    parser.add_argument("--second-network", default="effnetlite0", help="of fd2: effnetlite0, or a TorchScript file")
    parser.add_argument("--train", type=Path, help="of memorisation: what the generator was fitted to")
    parser.add_argument("--sheet", type=Path, help="of memorisation: write the closest pairs to this PNG")
    parser.add_argument("--clip", type=Path, help="of text: folder of a CLIP model, as save_pretrained writes it")
    parser.add_argument("--texts", type=Path, help="of text: file with a line for each image of GENERATED, by name")
    options = parser.parse_args(arguments)
    config = replace(MetricsConfig(), mode=options.mode, precision=options.precision)
    if "fd2" in options.metrics:
        packaged = options.second_network == "effnetlite0"
        config = replace(
            config,
            second_network="effnetlite0" if packaged else "file",
            second_network_file=None if packaged else options.second_network,
        )
    try:
        rows, real, generated = _rows(options, config)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for row in rows:
        print(f"{row.metric:<40} {row.value:>10.5g}" + (f" ± {row.standard_error:.2g}" if row.standard_error else ""))
    fewest = min(len(real.features), len(generated.features))
    if fewest <= DIMENSIONS and "fid" in options.metrics:
        print(
            f"With {fewest} images a covariance of {DIMENSIONS} features has rank {fewest - 1}: this FID is for "
            "comparisons at the same counts only."
        )
    if options.json:
        write_jsonl(options.json, [asdict(row) for row in rows])
    return 0


def _rows(options: argparse.Namespace, config: MetricsConfig) -> tuple[list[Row], ImageSet, ImageSet]:
    """What the command was asked for, and the two sets. Raises UserError."""
    if "memorisation" in options.metrics and options.train is None:
        raise UserError("memorisation compares with the training images: name them with --train, or leave it out.")
    if "text" in options.metrics and (options.clip is None or options.texts is None):
        raise UserError("text needs a model and what the images should show: give --clip and --texts, or leave it out.")

    def seen(path: Path, samples: int | None) -> ImageSet:
        return look(path, config, samples, options.device, options.cache, _counter(path))

    real, generated = (seen(path, options.samples) for path in (options.real, options.generated))
    training = seen(options.train, None) if "memorisation" in options.metrics else None
    if sys.stderr.isatty():
        print(file=sys.stderr)  # below the counter
    rows = measure(real, generated, options.metrics, config)
    if "diversity" in options.metrics:
        rows += diversity(generated, "", options.device) + diversity(real, "real_", options.device)
    if training is not None:
        how = config.mode + ("-bf16" if config.precision == "bfloat16" else "")
        rows.append(memorised(generated, real, training, how, options.sheet))
    if "text" in options.metrics:
        rows.append(alignment(options.generated, options.texts, options.clip, options.device))
    return rows, real, generated


def _apart(features: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n of the samples (at most half of them), drawn at random, and the rest."""
    mixed = draw(features, None)
    n = min(n, len(mixed) // 2)
    if n < 2:
        raise UserError(f"{len(mixed)} real images have no two parts to compare: give four, or leave floor out.")
    return mixed[:n], mixed[n:]


def _counter(path: Path) -> Callable[[int], None]:
    """Progress on the error stream: in place on a terminal, every 500 images in a log."""
    live = sys.stderr.isatty()

    def report(done: int) -> None:
        if live:
            print(f"\r{path}: {done} images", end="", file=sys.stderr, flush=True)
        elif done % image_sets.CHUNK == 0:
            print(f"{path}: {done} images", file=sys.stderr, flush=True)

    return report


if __name__ == "__main__":
    sys.exit(main())
