"""Small copies of datasets in exactly the layout that their users have: MM-CelebA-HQ, COCO, CelebA and CIFAR-10.

Every image is of one random colour pattern that only its id determines, so that a test can tell which image it got.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ATTRIBUTES = ("5_o_Clock_Shadow", "Arched_Eyebrows", "Male", "Smiling", "Young")  # some of the 40
COLOURS = ("black", "blond", "brown", "gray")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def pixels(name: str, height: int = 24, width: int = 24) -> np.ndarray:
    """uint8 [H W 3], smooth, told by the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def picture(path: Path, name: str, height: int = 24, width: int = 24) -> None:
    """One image file, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(name, height, width)).save(path)


def mm_celeba_hq(
    root: Path, train: Sequence[int] = range(12), test: Sequence[int] = range(12, 18), images: str = "image",
    suffix: str = ".jpg", lists: str = "{}/filenames.pickle",
) -> Path:  # fmt: skip
    """images/<id>.jpg, celeba-caption/<id>.txt of ten lines, and the lists: pickles as Python 2 wrote them, or text."""
    for number in (*train, *test):
        picture(root / images / f"{number}{suffix}", f"face {number}")
        text = root / "celeba-caption" / f"{number}.txt"
        text.parent.mkdir(exist_ok=True)
        said = (f"face {number} has {COLOURS[view % 4]} hair, caption {view}." for view in range(10))
        text.write_text("\n".join(said) + "\n", encoding="utf-8")
    for split, ids in (("train", train), ("test", test)):
        file = root / lists.format(split)
        file.parent.mkdir(exist_ok=True)
        names = [str(number) for number in ids]
        file.write_bytes(python2(names)) if file.suffix == ".pickle" else file.write_text("\n".join(names))
    return root


def celeba_mapping(root: Path, ids: Sequence[int]) -> Path:
    """CelebA-HQ-to-CelebA-mapping.txt and list_eval_partition.txt: of ten images one is val and two are test."""
    rows = [f"{number:>6} {1000 + number:>10} {1001 + number:06}.jpg" for number in ids]
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["   idx   orig_idx   orig_file", *rows]) + "\n")
    parts = [f"{1001 + number:06}.jpg {(0, 0, 0, 0, 0, 0, 0, 1, 2, 2)[number % 10]}" for number in ids]
    (root / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return root


def coco(root: Path, train: Sequence[int] = range(9, 19), val: Sequence[int] = range(42, 48), year: int = 2014) -> Path:
    """annotations/captions_<part><year>.json and the images, with five captions each and one of six."""
    for part, ids in (("train", train), ("val", val)):
        prefix = f"COCO_{part}2014_" if year == 2014 else ""
        images, annotations = [], []
        for place, number in enumerate(ids):
            name, (height, width) = f"{prefix}{number:012}.jpg", ((24, 32), (32, 24), (25, 30))[place % 3]
            picture(root / f"{part}{year}" / name, f"photograph {number}", height, width)
            images.append({"license": 3, "file_name": name, "height": height, "width": width, "id": number})
            for view in range(5 + (place == 0)):
                said = f"Photograph {number}\nseen by person {view}. "  # some of COCO's captions have line breaks
                annotations.append({"image_id": number, "id": 100 * view + number, "caption": said})
        file = root / "annotations" / f"captions_{part}{year}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        about = {"info": {"year": year}, "images": images, "licenses": [], "annotations": annotations}
        file.write_text(json.dumps(about))
    return root


def celeba(root: Path, n: int = 20, kaggle: bool = False) -> Path:
    """Aligned images of 218×178 and both lists, of six tenths train, two val, two test; as published, or as Kaggle has
    them. An image is of a man if its number is even, and smiles if it is below 6."""
    folder = root / "img_align_celeba" / ("img_align_celeba" if kaggle else "")
    names = [f"{number:06}.jpg" for number in range(1, n + 1)]
    rows, parts = [], []
    for number, name in enumerate(names, 1):
        picture(folder / name, f"person {number}", 218, 178)
        has = ["1" if flag else "-1" for flag in (False, True, number % 2 == 0, number < 6, True)]
        rows.append([name, *has])
        parts.append([name, str((0, 0, 0, 0, 0, 0, 1, 1, 2, 2)[number % 10])])
    if kaggle:
        _csv(root / "list_attr_celeba.csv", [["image_id", *ATTRIBUTES], *rows])
        _csv(root / "list_eval_partition.csv", [["image_id", "partition"], *parts])
    else:
        lines = [str(n), " ".join(ATTRIBUTES) + " ", *(" ".join(f"{cell:>2}" for cell in row) for row in rows)]
        (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
        (root / "list_eval_partition.txt").write_text("\n".join(map(" ".join, parts)) + "\n")
    return root


def cifar10(root: Path, each: int = 4, protocol: int | None = None) -> Path:
    """cifar-10-batches-py with `each` images a batch, as Python 2 pickled it, or by Python 3 in a protocol."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    dump = python2 if protocol is None else lambda value: pickle.dumps(value, protocol=protocol)
    (folder / "batches.meta").write_bytes(
        dump({"num_cases_per_batch": each, "label_names": list(CLASSES), "num_vis": 3072})
    )
    for batch in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        names = [f"{batch}_{number}.png" for number in range(each)]
        rows = np.stack([pixels(name, 32, 32).transpose(2, 0, 1).reshape(-1) for name in names])
        values = {
            "batch_label": batch, "labels": [(number + len(batch)) % 10 for number in range(each)], "data": rows,
            "filenames": names,
        }  # fmt: skip
        (folder / batch).write_bytes(dump(values))
    return root


def python2(value: object) -> bytes:
    """A pickle as Python 2's cPickle writes it in protocol 2, where a str is bytes; of lists, dicts, str, int and uint8
    arrays. It is written out here, since Python 3 writes none."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: object) -> bytes:
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()  # SHORT_BINSTRING
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value  # BINSTRING
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)  # BININT
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"  # EMPTY_LIST, MARK, APPENDS
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(part) for pair in value.items() for part in pair) + b"u"  # SETITEMS
    assert isinstance(value, np.ndarray)
    assert value.dtype == np.uint8
    kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(map(_python2, value.shape)) + b"t"
    state = b"(K\x01" + shape + kind + b"\x89" + _python2(value.tobytes()) + b"tb"  # NEWFALSE, BUILD
    return b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR" + state


def _csv(file: Path, rows: list[list[str]]) -> None:
    file.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
