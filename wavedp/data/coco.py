"""MS-COCO's captions (Lin et al., 2014, arXiv:1405.0312; Chen et al., 2015, arXiv:1504.00325): photographs with five
captions or more.

    annotations/captions_train2014.json   annotations/captions_val2014.json
    train2014/COCO_train2014_*.jpg        val2014/COCO_val2014_*.jpg          or below images/

data.split=official reads the division of 2014 (that of GigaGAN's and LlamaGen's evaluation), data.split=coco2017 that
of 2017, whose files are named likewise. train is train; val and test are both val: the captions of COCO's test images
are not public. One image is one record with all its captions, in the order of their ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wavedp.config import DataConfig
from wavedp.data import listed
from wavedp.data.dataset import Split
from wavedp.data.listed import Found, Listed, Record
from wavedp.errors import UserError

YEARS = {"official": 2014, "coco2017": 2017}
PARTS: dict[str, tuple[Split, ...]] = {"train": ("train",), "val": ("val", "test")}


class Coco(Listed):
    """See the module's docstring."""

    name, captioned = "coco", True
    DIVISIONS = tuple(YEARS)
    LICENCE = "annotations CC-BY-4.0, each photograph under its owner's terms on Flickr (cocodataset.org/#termsofuse)"
    KNOWN_AS = "COCO"
    MAY_BE_IN = ("COCO", "LAION", "Open Images")
    OBTAIN = """\
coco is not fetched: its photographs are under terms of their owners (cocodataset.org/#termsofuse). Obtain
  images.cocodataset.org/zips/train2014.zip  images.cocodataset.org/zips/val2014.zip
  images.cocodataset.org/annotations/annotations_trainval2014.zip          (2017 likewise)
and unpack them in one folder:
  ROOT/annotations/captions_train2014.json  ROOT/annotations/captions_val2014.json
  ROOT/train2014/COCO_train2014_*.jpg       ROOT/val2014/COCO_val2014_*.jpg
then use data=coco data.path=ROOT; for 2017 also data.split=coco2017."""

    def lists(self, root: Path, config: DataConfig) -> list[Path]:
        """The captions and the folders of images."""
        places = (place for part in PARTS for place in (_captions(part, config), *_folders(part, config)))
        return [root / place for place in places if (root / place).exists()]

    def find(self, root: Path, config: DataConfig) -> Found:
        """Pairs by the image's id."""
        found: Found = {}
        for part, splits in PARTS.items():
            folder, said = listed.first(root, _folders(part, config)), root / _captions(part, config)
            if folder is None and not said.is_file():
                continue
            if not said.is_file():
                raise self.lacking(root, [_captions(part, config)])
            if folder is None:
                raise self.lacking(root, _folders(part, config))
            records = _records(said, folder)
            found |= dict.fromkeys(splits, records)
        if not found:
            raise self.lacking(root, [_captions("train", config)])
        return found


def _captions(part: str, config: DataConfig) -> str:
    return f"annotations/captions_{part}{YEARS[config.split]}.json"


def _folders(part: str, config: DataConfig) -> tuple[str, str]:
    return f"{part}{YEARS[config.split]}", f"images/{part}{YEARS[config.split]}"


def _records(said: Path, folder: Path) -> list[Record]:
    names, captions = _read(said)
    files = listed.images(folder)
    for number, name in names.items():
        if name not in files:
            raise UserError(f"image {number} of {said} has no file {folder / name}: add it, or take it off the list.")
        if number not in captions:
            raise UserError(f"image {number} ({folder / name}) has no caption in {said}: add one, or take it out.")
    for number in captions:
        if number not in names:
            raise UserError(f"a caption of {said} is for image {number}, which its `images` lack: add it there.")
    if surplus := sorted(set(files) - set(names.values())):
        raise UserError(f"{folder / surplus[0]} has no caption in {said}: add one, or take the image out.")
    return [Record(name, files[name], said="\n".join(captions[number])) for number, name in names.items()]


def _read(file: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """{image: file name} and {image: captions}, each caption in one line. Raises UserError for another form."""
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        names = {each["id"]: each["file_name"] for each in content["images"]}
        captions: dict[int, list[str]] = {}
        for each in sorted(content["annotations"], key=lambda each: each["id"]):
            if caption := " ".join(each["caption"].split()):
                captions.setdefault(each["image_id"], []).append(caption)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not COCO's file of captions ({type(error).__name__}: {error}): replace it by the published one."
        ) from error
    if len(names) != len(content["images"]) or len(set(names.values())) != len(names):
        raise UserError(f"{file} lists an image twice: replace it by the published file.")
    return names, captions
