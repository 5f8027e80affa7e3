"""CelebA (Liu et al., ICCV 2015): 202,599 faces with 40 attributes, of which one is the label.

    img_align_celeba/000001.jpg           or Img/img_align_celeba/, or Kaggle's img_align_celeba/img_align_celeba/
    list_attr_celeba.txt                  or Anno/, or Kaggle's .csv
    list_eval_partition.txt               or Eval/, or Kaggle's .csv

The label is data.attribute (null: Male, as in DPImageBench, data/preprocess_dataset.py); its classes are `not Male` and
`Male`. data.split=dpimagebench divides the train images again, 145,064 and the rest, as DPImageBench does with seed 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wavedp.config import DataConfig
from wavedp.data import listed
from wavedp.data.dataset import Split
from wavedp.data.fashion_mnist import benchmark_order
from wavedp.data.listed import Found, Listed, Record
from wavedp.errors import UserError

IMAGES = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba")
ATTRIBUTES = ("list_attr_celeba.txt", "Anno/list_attr_celeba.txt", "list_attr_celeba.csv")
PARTITION = ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "list_eval_partition.csv")
SPLITS: dict[str, Split] = {"0": "train", "1": "val", "2": "test"}
USUAL = "Male"
BENCHMARK_TRAIN = 145_064  # DPImageBench, data/dataset_loader.py


class CelebA(Listed):
    """See the module's docstring."""

    name = "celeba"
    DIVISIONS = ("official", "dpimagebench")
    READS = ("attribute",)
    LICENCE = "non-commercial research (mmlab.ie.cuhk.edu.hk/projects/CelebA.html)"
    KNOWN_AS = "CelebA"
    MAY_BE_IN = ("CelebA", "CelebA-HQ", "FFHQ", "LAION")
    OBTAIN = """\
celeba is not fetched: it is for non-commercial research. Obtain img_align_celeba.zip,
list_attr_celeba.txt and list_eval_partition.txt from mmlab.ie.cuhk.edu.hk/projects/CelebA.html (or Kaggle's copy, whose
lists are .csv), and lay them out as
  ROOT/img_align_celeba/000001.jpg ...
  ROOT/list_attr_celeba.txt
  ROOT/list_eval_partition.txt
then use data=celeba data.path=ROOT."""

    def classes(self, config: DataConfig) -> tuple[str, ...]:
        """Without the attribute, with it."""
        name = config.attribute or USUAL
        return f"not {name}", name

    def lists(self, root: Path, config: DataConfig) -> list[Path]:
        """Both lists and the folder of images."""
        return [path for places in (IMAGES, ATTRIBUTES, PARTITION) if (path := listed.first(root, places))]

    def find(self, root: Path, config: DataConfig) -> Found:
        """Labels and splits by file name."""
        folder = listed.first(root, IMAGES)
        if folder is None:
            raise self.lacking(root, IMAGES)
        files = listed.images(folder)
        labels, splits = self._labels(root, config.attribute or USUAL), partition(self, root)
        found: Found = {split: [] for split in SPLITS.values()}
        for name in sorted(splits):
            for place, there in (("img_align_celeba", files), ("list_attr_celeba", labels)):
                if name not in there:
                    raise UserError(
                        f"{name} of list_eval_partition is not in {place} of {root}: add it, or take it out."
                    )
            found[splits[name]].append(Record(name, files[name], labels[name]))
        if surplus := sorted(set(files) - set(splits)):
            raise UserError(f"{files[surplus[0]]} is not in list_eval_partition of {root}: list it, or take it out.")
        if config.split == "dpimagebench":
            found["train"], found["val"] = _benchmark(found["train"])
        return found

    def _labels(self, root: Path, attribute: str) -> dict[str, int]:
        """{file name: 1 with the attribute, 0 without}."""
        file = listed.first(root, ATTRIBUTES)
        if file is None:
            raise self.lacking(root, ATTRIBUTES)
        header = 1 if file.suffix == ".csv" else 2
        lines = listed.lines(file)[:header]
        names = lines[-1].split("," if file.suffix == ".csv" else None) if len(lines) == header else []
        names = [name.strip() for name in names if name.strip() != "image_id"]
        if attribute not in names:
            raise UserError(
                f"data.attribute={attribute} is not in {file}: use one of {', '.join(names) or 'another file'}."
            )
        place = 1 + names.index(attribute)
        return {row[0]: int(row[place] == "1") for row in listed.rows(file, 1 + len(names), header)}


def partition(source: Listed, root: Path) -> dict[str, Split]:
    """{file name: its split} of list_eval_partition."""
    file = listed.first(root, PARTITION)
    if file is None:
        raise source.lacking(root, PARTITION)
    found: dict[str, Split] = {}
    for name, number in listed.rows(file, 2, header=int(file.suffix == ".csv")):
        if number not in SPLITS or name in found:
            raise UserError(f"{file} says {number} of {name}, or says it twice: replace it by the published file.")
        found[name] = SPLITS[number]
    return found


def _benchmark(train: list[Record]) -> tuple[list[Record], list[Record]]:
    """(train, val) of DPImageBench, of train records in the order of their file names."""
    if len(train) <= BENCHMARK_TRAIN:
        raise UserError(
            f"data.split=dpimagebench needs more than {BENCHMARK_TRAIN:,} train images, and {len(train):,} are here: "
            "use data.split=official."
        )
    order = benchmark_order(len(train))
    chosen, rest = np.split(order, [BENCHMARK_TRAIN])
    return [train[i] for i in chosen], [train[i] for i in rest]
