"""Draw captions to sample from: a line a prompt for `sampling.prompts`, and a record of where they are from.

    python -m wavedp.data.prompt_file annotations/captions_val2014.json prompts.txt --count 30000
    python -m wavedp.data.prompt_file celeba-caption prompts.txt --count 30000 --ids test.txt

CAPTIONS is COCO's file of captions, or a folder of one text file an image, a caption a line, named by the image's id.
Rounds are drawn until there are enough: each takes every image once, in random order, with a caption that it has not
given yet. So 30,000 of COCO's 40,504 images of val2014 give one caption each; 6,000 images of MM-CelebA-HQ five each.
How published evaluations drew theirs is not known to us; LlamaGen's are in its evaluations/t2i/coco_captions.csv.

Captions are as sensitive as the images that they describe. Take those of public images, or of a held-out split that may
be published, never those that a generator was fitted to: a name with `train` in it is refused, unless --public says
that these images are public. prompts.json records the file's sha256, the rule, the seed and the images' ids.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavedp.command import command
from wavedp.errors import UserError
from wavedp.weight_files import sha256

RULE = "rounds over all images in random order, each with a caption that it has not given yet"


def draw(captions: dict[str, list[str]], count: int, seed: int) -> list[tuple[str, str]]:
    """`count` captions with the ids of their images, by the rule above. Raises UserError for more than there are."""
    known = sum(map(len, captions.values()))
    if not 1 <= count <= known:
        raise UserError(f"--count={count} of {known} captions of {len(captions)} images: ask for 1 to {known}.")
    generator, ids = np.random.default_rng(seed), sorted(captions)
    order = {name: generator.permutation(len(captions[name])) for name in ids}
    found: list[tuple[str, str]] = []
    for turn in range(max(map(len, captions.values()))):
        here = [name for name in ids if turn < len(captions[name])]
        found += [
            (here[place], captions[here[place]][order[here[place]][turn]]) for place in generator.permutation(len(here))
        ]
    return found[:count]


def read(path: Path, ids: Path | None = None) -> dict[str, list[str]]:
    """Captions, each in one line, by the image's id. ids: a text file with the ids or file names to take (None: all).
    Raises UserError for what is no file of captions, and for an id without any."""
    found = _folder(path) if path.is_dir() else _coco(path)
    if ids is None:
        return found
    wanted = [Path(line.strip()).stem for line in _lines(ids) if line.strip()]
    absent = next((name for name in wanted if name not in found), None)
    if absent is not None or not wanted:
        raise UserError(f"{ids} names {absent or 'no image'}, which {path} has no caption of: take it off the list.")
    return {name: found[name] for name in wanted}


def _coco(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        for each in json.loads(path.read_bytes())["annotations"]:
            if caption := " ".join(each["caption"].split()):
                found.setdefault(str(each["image_id"]), []).append(caption)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is neither COCO's file of captions nor a folder of text files ({type(error).__name__}): give one "
            "of them."
        ) from error
    return _some(path, found)


def _folder(path: Path) -> dict[str, list[str]]:
    lines = {file.stem: [" ".join(line.split()) for line in _lines(file)] for file in sorted(path.glob("*.txt"))}
    return _some(path, {name: [line for line in said if line] for name, said in lines.items() if any(said)})


def _some(path: Path, found: dict[str, list[str]]) -> dict[str, list[str]]:
    if not found:
        raise UserError(f"{path} holds no caption: give COCO's file of captions, or a folder of text files.")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a text file in UTF-8.") from error


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the prompts and their record; 2 with one sentence for what cannot be read or written."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.data.prompt_file", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("captions", type=Path, help="COCO's captions_….json, or a folder of text files")
    parser.add_argument("prompts", type=Path, help="the file to write; its record is beside it, with .json")
    parser.add_argument("--count", type=int, default=30_000, help="prompts (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ids", type=Path, help="text file with the ids or file names of the split, one a line")
    parser.add_argument("--public", action="store_true", help="the images are public, whatever their split is called")
    options = parser.parse_args(arguments)
    for path in (options.captions, options.ids):
        if path is not None and re.search(r"train", path.name, re.IGNORECASE) and not options.public:
            raise UserError(
                f"{path} is called after a training split, whose captions would leave it without privacy: give those "
                "of a held-out split, or say --public if its images are."
            )
    captions = read(options.captions, options.ids)
    chosen = draw(captions, options.count, options.seed)
    record: dict[str, Any] = {
        "captions": options.captions.name,
        "sha256": sha256(options.captions),
        "ids": None if options.ids is None else {"name": options.ids.name, "sha256": sha256(options.ids)},
        "public": options.public,
        "known": {"images": len(captions), "captions": sum(map(len, captions.values()))},
        "rule": RULE,
        "count": options.count,
        "seed": options.seed,
        "images": [name for name, _ in chosen],
    }
    try:
        options.prompts.write_text("".join(f"{caption}\n" for _, caption in chosen), encoding="utf-8")
        options.prompts.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written ({error.strerror}): name another file.") from error
    print(f"{options.prompts}: {len(chosen)} prompts of {len(set(record['images']))} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
