"""Write a dataset as PNG files for other tools, or as one decoded file for another machine:

    python -m wavedp.data.export fashion_mnist test FOLDER [--skip N] [--count N] [--home DIR]
    python -m wavedp.data.export fashion_mnist --decoded fashion_mnist.decoded.npz [--home DIR]

PNG files are FOLDER/<class>/00000.png, numbered by record. A decoded file holds every split with its fingerprint: put
it into the data home of a machine that lacks the dataset's own files, and `data.name=fashion_mnist` works there with
the same stage keys (wavedp.data.decoded). Exported images of a sensitive set are as sensitive as the set.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from wavedp import data
from wavedp.command import command
from wavedp.config import DataConfig
from wavedp.data import decoded
from wavedp.data.dataset import Dataset, Records, Split
from wavedp.data.image_files import folders_of, require_empty, write_picture
from wavedp.errors import UserError

DIVISIONS = get_args(get_type_hints(DataConfig)["split"])


def export(dataset: Dataset, folder: Path, skip: int = 0, count: int | None = None) -> int:
    """Write `count` records (None: all) after the first `skip` as PNG files; returns how many.

    Raises UserError for a range beyond the set, and for a folder that is not empty: old and new images would be
    measured as one set.
    """
    stop = len(dataset.images) if count is None else skip + count
    if not 0 <= skip < stop <= len(dataset.images):
        raise UserError(
            f"records {skip} to {stop} are not among the {len(dataset.images)} of {dataset.name}: lower --skip or "
            "--count."
        )
    require_empty(folder)
    inside = folders_of(dataset.classes)
    for number in range(skip, stop):
        write_picture(dataset.images[number], folder / inside[int(dataset.labels[number])] / f"{number:05}.png")
    return stop - skip


def export_decoded(config: DataConfig, file: Path) -> decoded.About:
    """Write every split of the dataset into one decoded file; returns what it records. `limit` and `duplicates` are
    ignored: the file holds every record.

    Raises UserError for a dataset that is not on disk, and OSError where the file cannot be written.
    """
    whole = dataclasses.replace(config, limit=None, duplicates="refuse")
    splits: dict[Split, Records] = {}
    classes: tuple[str, ...] = ()
    for split in data.splits(whole):
        loaded = data.load(whole, split)
        splits[split], classes = (loaded.images, loaded.labels, loaded.captions), loaded.classes
    return decoded.write(file, whole, classes, splits)


@command
def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status (2 after a UserError)."""
    default = DataConfig()
    parser = argparse.ArgumentParser(prog="python -m wavedp.data.export", description="A dataset in files.")
    parser.add_argument("name", help=f"one of {', '.join(data.SOURCES)}, or of another package")
    parser.add_argument("split", nargs="?", choices=get_args(Split), help="of the PNG files")
    parser.add_argument("folder", nargs="?", type=Path, help="for the PNG files")
    parser.add_argument("--decoded", type=Path, metavar="FILE", help="write every split into FILE (*.decoded.npz)")
    parser.add_argument("--skip", type=int, default=0, help="leave out this many records at the beginning")
    parser.add_argument("--count", type=int, help="write this many (default: all)")
    parser.add_argument("--division", choices=DIVISIONS, default=default.split, help="data.split")
    parser.add_argument("--size", type=int, default=default.size)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=default.channels)
    parser.add_argument("--n-records", type=int, default=default.n_records, help="of the procedural set's train split")
    parser.add_argument("--path", help="root of a dataset that you have, or a decoded file")
    parser.add_argument("--attribute", help="of celeba: the label")
    parser.add_argument("--home", default=default.home, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.decoded is not None and (options.split or options.skip or options.count is not None):
        parser.error("--decoded takes every record of every split: leave out SPLIT, FOLDER, --skip and --count")
    if options.decoded is None and options.folder is None:
        parser.error("give SPLIT and FOLDER for PNG files, or --decoded FILE")
    config = DataConfig(
        options.name,
        options.division,
        options.size,
        options.channels,
        n_records=options.n_records,
        path=options.path,
        attribute=options.attribute,
        home=options.home,
    )
    try:
        if options.decoded is not None:
            splits = export_decoded(config, options.decoded).splits
            counts = ", ".join(f"{split.records} {name}" for name, split in splits.items())
            print(f"{counts} images are now in {options.decoded}: put it into the data home that lacks {config.name}")
            if not options.decoded.name.endswith(decoded.SUFFIX):
                print(f"there its name must end in {decoded.SUFFIX}")
            return 0
        written = export(data.load(config, options.split), options.folder, options.skip, options.count)
    except OSError as error:
        print(f"the export failed ({error}): name another file or folder.", file=sys.stderr)
        return 2
    print(f"{written} images are now in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
