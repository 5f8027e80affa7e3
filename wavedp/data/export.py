"""Write images of a dataset into a folder of PNG files, as other tools want them:

    python -m wavedp.data.export fashion_mnist test FOLDER [--skip N] [--count N] [--home DIR]

Files are FOLDER/<class>/00000.png, numbered by record. Images of a sensitive set stay sensitive in their new place.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from PIL import Image

from wavedp import data
from wavedp.config import DataConfig
from wavedp.data.dataset import Dataset, Split
from wavedp.errors import UserError


def export(dataset: Dataset, folder: Path, skip: int = 0, count: int | None = None) -> int:
    """Write `count` records (None: all) after the first `skip`; returns how many. Raises UserError for a range the set
    does not have, and for a folder that holds anything already: old and new images would be measured as one set."""
    stop = len(dataset.images) if count is None else skip + count
    if not 0 <= skip < stop <= len(dataset.images):
        raise UserError(
            f"records {skip} to {stop} are not among the {len(dataset.images)} of {dataset.name}: lower --skip or "
            "--count."
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name another folder, or empty it.")
    for number in range(skip, stop):
        image = dataset.images[number]  # C H W
        target = folder / dataset.classes[int(dataset.labels[number])].replace("/", "-") / f"{number:05}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0).squeeze(2) if len(image) == 1 else image.transpose(1, 2, 0)).save(
            target
        )
    return stop - skip


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status (2 after a UserError)."""
    parser = argparse.ArgumentParser(prog="python -m wavedp.data.export", description="A dataset as PNG files.")
    parser.add_argument("name", choices=sorted(data.SOURCES))
    parser.add_argument("split", choices=get_args(Split))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--skip", type=int, default=0, help="leave out so many records at the beginning")
    parser.add_argument("--count", type=int, help="write so many (default: all)")
    parser.add_argument("--size", type=int, default=DataConfig().size)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=DataConfig().channels)
    parser.add_argument("--path", help="root of a folder dataset")
    parser.add_argument("--home", default=DataConfig().home, help="default: %(default)s")
    options = parser.parse_args(arguments)
    config = DataConfig(
        options.name, size=options.size, channels=options.channels, path=options.path, home=options.home
    )
    try:
        written = export(data.load(config, options.split), options.folder, options.skip, options.count)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{written} images are now in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
