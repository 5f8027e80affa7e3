"""Multi-Modal-CelebA-HQ (Xia et al., CVPR 2021, arXiv:2012.03308): 30,000 faces with ten captions each.

    image/<id>.jpg                        or images/, or CelebAMask-HQ's CelebA-HQ-img/; .png too
    celeba-caption/<id>.txt               one caption a line
    train/filenames.pickle                the list of a split: a pickle, read by wavedp.data.pickles, or a text file of
      test/filenames.pickle               one id or file name a line; also <split>_filenames.pickle,
                                          <split>/filenames.txt, <split>_filenames.txt, <split>.txt; val is optional

data.split=celeba divides as CelebA does, by CelebA-HQ-to-CelebA-mapping.txt and list_eval_partition.txt (or .csv); the
lists are not needed then. Images that no list names are left out. Ids are numbers; zeros before them do not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from wavedp.config import DataConfig
from wavedp.data import celeba, listed, pickles
from wavedp.data.dataset import Split
from wavedp.data.listed import Found, Listed, Record
from wavedp.errors import UserError

IMAGES = ("image", "images", "CelebA-HQ-img")
CAPTIONS = "celeba-caption"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
LISTS = (
    "{}/filenames.pickle", "{}_filenames.pickle", "{}/filenames.txt", "{}_filenames.txt", "{}.txt",
)  # fmt: skip
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class MMCelebAHQ(Listed):
    """See the module's docstring."""

    name, captioned = "mm_celeba_hq", True
    DIVISIONS = ("official", "celeba")
    LICENCE = "non-commercial research (github.com/switchablenorms/CelebAMask-HQ)"
    KNOWN_AS = "CelebA-HQ"
    MAY_BE_IN = ("CelebA", "CelebA-HQ", "FFHQ", "LAION")
    OBTAIN = """\
mm_celeba_hq is not fetched: its images are for non-commercial research. Obtain
  images     the folder image/ of github.com/IIGROUP/MM-CelebA-HQ-Dataset, or CelebA-HQ-img/ of
             github.com/switchablenorms/CelebAMask-HQ
  captions   the folder celeba-caption/ of github.com/IIGROUP/MM-CelebA-HQ-Dataset
  lists      its train and test lists; or, for data.split=celeba, CelebA-HQ-to-CelebA-mapping.txt of CelebAMask-HQ and
             list_eval_partition.txt of CelebA
and lay them out as
  ROOT/image/0.jpg ...             (or ROOT/CelebA-HQ-img/0.jpg ...)
  ROOT/celeba-caption/0.txt ...
  ROOT/train/filenames.pickle  ROOT/test/filenames.pickle     (or ROOT/train.txt and ROOT/test.txt, one id a line)
then use data=mm_celeba_hq data.path=ROOT."""

    def classes(self, config: DataConfig) -> tuple[str, ...]:
        """Every image is a face."""
        return ("face",)

    def lists(self, root: Path, config: DataConfig) -> list[Path]:
        """The folders of images and captions, and what divides them."""
        names = (*IMAGES, CAPTIONS, *(place.format(split) for split in SPLITS for place in LISTS))
        if config.split == "celeba":
            names = (*IMAGES, CAPTIONS, MAPPING, *celeba.PARTITION)
        return [root / name for name in names if (root / name).exists()]

    def find(self, root: Path, config: DataConfig) -> Found:
        """Pairs by id."""
        folders = [root / name for name in IMAGES if (root / name).is_dir()]
        if not folders:
            raise self.lacking(root, IMAGES)
        if len(folders) > 1:
            raise UserError(f"{folders[0]} and {folders[1]} both hold images: keep one of them in {root}.")
        if not (root / CAPTIONS).is_dir():
            raise self.lacking(root, [CAPTIONS])
        pictures = _by_id(listed.images(folders[0]).values())
        texts = _by_id(sorted((root / CAPTIONS).glob("*.txt")))
        for name in texts:
            if name not in pictures:
                raise UserError(
                    f"{texts[name]} has no image {name} in {folders[0]}: add the image, or remove the file."
                )
        divided = self._by_celeba(root, pictures) if config.split == "celeba" else self._by_lists(root)
        found: Found = {split: [] for split in divided}
        seen: dict[str, Split] = {}
        for split, ids in divided.items():
            for name in ids:
                if name in seen:
                    raise UserError(
                        f"image {name} is in the {seen[name]} list and again in the {split} list of {root}: list it "
                        "once."
                    )
                if name not in pictures:
                    raise UserError(
                        f"image {name} of the {split} list has no file in {folders[0]}: add it, or unlist it."
                    )
                if name not in texts:
                    raise UserError(f"{pictures[name]} has no captions: add {root / CAPTIONS / name}.txt.")
                seen[name] = split
                found[split].append(Record(name, pictures[name], said=texts[name]))
        return found

    def _by_lists(self, root: Path) -> dict[Split, list[str]]:
        found: dict[Split, list[str]] = {}
        for split in SPLITS:
            files = [root / place.format(split) for place in LISTS if (root / place.format(split)).is_file()]
            if len(files) > 1:
                raise UserError(f"{files[0]} and {files[1]} both list the {split} images: keep one of them.")
            if files:
                names = pickles.strings(files[0]) if files[0].suffix == ".pickle" else listed.lines(files[0])
                found[split] = [_id(name, files[0]) for name in names]
        for split in ("train", "test"):
            if split not in found:
                raise self.lacking(root, (place.format(split) for place in LISTS))
        return found

    def _by_celeba(self, root: Path, pictures: dict[str, Path]) -> dict[Split, list[str]]:
        """The split of each image is that of the image of CelebA from which it was made."""
        if not (root / MAPPING).is_file():
            raise self.lacking(root, [MAPPING])
        splits = celeba.partition(self, root)
        found: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for name, _, original in listed.rows(root / MAPPING, 3, header=1):
            if original not in splits:
                raise UserError(
                    f"{original} of {root / MAPPING} is not in list_eval_partition: replace both by published files."
                )
            if name in pictures:  # half a set is one too
                found[splits[original]].append(name)
        return found


def _id(name: str, where: Path) -> str:
    """`7` of 7, 007, 7.jpg, or image/7.jpg."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    if not (stem.isascii() and stem.isdigit()):
        raise UserError(f"{name!r} of {where} is not the number of an image: use names such as 7 or 7.jpg.")
    return str(int(stem))


def _by_id(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        name = _id(path.name, path.parent)
        if name in found:
            raise UserError(f"{found[name]} and {path} are both number {name}: keep one of them.")
        found[name] = path
    return found
