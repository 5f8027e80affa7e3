"""A dataset from arrays, for notebooks."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavedp.config import DataConfig
from wavedp.data import decoded
from wavedp.data.dataset import TEST_SHARE, Records, Split, content_fingerprint, position, square_shape
from wavedp.errors import UserError

DEFAULT_HOME = DataConfig().home


def from_arrays(
    images: Any,
    labels: Any = None,
    captions: Sequence[str] | None = None,
    *,
    test_images: Any = None,
    test_labels: Any = None,
    test_captions: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    home: str | os.PathLike[str] = DEFAULT_HOME,
) -> DataConfig:
    """Keep a dataset of numpy arrays or torch tensors in a file below `home`; returns the DataConfig that names it.

    images: [B H W], [B C H W] or [B H W C] with C = 1 or 3 and H = W; uint8, or float in [0, 1], which is rounded to 8
    bits. labels: integers [B] (None: all 0). captions: one string for each image; separate several captions of one
    image by newlines. classes: names of the labels (None: the labels' numbers).
    Records keep their order, and `limit` takes the first ones: shuffle images that are sorted by class before you use
    it. Without test images, a tenth of the images becomes the test split; it is chosen by the hash of each image, so an
    image stays in its split when others come or go, and equal images are in the same split.
    The file is named by its content: the same arrays give the same file and the same config. It is a copy of the
    images; delete it if they are sensitive and no longer needed.

    Raises UserError for shapes, types, values or labels other than these, for lengths that differ, and where the file
    cannot be written.
    """
    train = _records("", images, labels, captions)
    if test_images is not None:
        test = _records("test_", test_images, test_labels, test_captions)
        if (labels is None) != (test_labels is None) or (captions is None) != (test_captions is None):
            raise UserError("train and test differ in labels or captions: give them for both, or for neither.")
    elif test_labels is not None or test_captions is not None:
        raise UserError("test_labels or test_captions came without test_images: give test_images too.")
    else:
        train, test = _divided(train)
    splits: dict[Split, Records] = {"train": train, "test": test}
    names = _class_names(classes, labels is not None, max(int(part[1].max()) for part in (train, test)))
    channels, size = train[0].shape[1:3]
    config = DataConfig(name="decoded", size=size, channels=channels, home=os.fspath(home))
    square_shape(config)
    content = [names, *(content_fingerprint(*records) for records in splits.values())]
    file = Path(home, hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32] + decoded.SUFFIX).absolute()
    config = DataConfig(name="decoded", size=size, channels=channels, path=str(file), home=os.fspath(home))
    try:
        decoded.write(file, config, names, splits)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}): give another home.") from error
    return config


def _records(prefix: str, images: Any, labels: Any, captions: Sequence[str] | None) -> Records:
    pixels = _pixels(f"{prefix}images", images)
    n = len(pixels)
    numbers = np.zeros(n, np.int64)
    if labels is not None:
        numbers = _array(labels)
        if numbers.dtype.kind not in "iu" or numbers.shape != (n,) or numbers.min() < 0:
            raise UserError(
                f"{prefix}labels are {numbers.dtype} {numbers.shape} for {n} images: give one integer from 0 for each."
            )
    if captions is not None:
        if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
            raise UserError(f"{prefix}captions are not strings: give one string for each image.")
        if len(captions) != n:
            raise UserError(f"{n} {prefix}images have {len(captions)} captions: give one for each, or none.")
    return pixels, numbers.astype(np.int64), None if captions is None else tuple(captions)


def _pixels(name: str, images: Any) -> np.ndarray:
    """uint8 [B C H W] of any layout and type that `from_arrays` takes."""
    array = _array(images)
    if array.ndim == 3:
        array = array[:, None]  # B H W -> B 1 H W
    first = array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[2] == array.shape[3]
    last = array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] == array.shape[2]
    if first and last:
        raise UserError(f"{name} of shape {array.shape} can be read as B C H W or B H W C: give larger images.")
    if not (first or last) or not len(array):
        raise UserError(
            f"{name} have shape {np.shape(images)}: give square images as B H W, B C H W or B H W C, with C = 1 or 3."
        )
    if last:
        array = array.transpose(0, 3, 1, 2)  # B H W C -> B C H W
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
            raise UserError(
                f"{name} are {array.dtype} from {array.min()} to {array.max()}: give values in [0, 1], or uint8."
            )
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"{name} are {array.dtype}: give uint8, or float in [0, 1].")
    return np.ascontiguousarray(array)


def _array(values: Any) -> np.ndarray:
    """A numpy array of a numpy array, a torch tensor on any device, or a list."""
    if hasattr(values, "detach"):  # a tensor; torch need not be imported to see that
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    return np.asarray(values)


def _divided(records: Records) -> tuple[Records, Records]:
    """(train, test) by the hash of each image."""
    images, labels, captions = records
    held_out = np.array([position(hashlib.sha256(image.tobytes()).hexdigest()) < TEST_SHARE for image in images])
    if held_out.all() or not held_out.any():
        raise UserError(
            f"{len(images)} images leave {'train' if held_out.all() else 'test'} empty when a tenth is held out: give "
            "more images, or test_images."
        )
    parts = []
    for chosen in (np.flatnonzero(~held_out), np.flatnonzero(held_out)):
        parts.append((images[chosen], labels[chosen], None if captions is None else tuple(captions[i] for i in chosen)))
    return parts[0], parts[1]


def _class_names(classes: Sequence[str] | None, labelled: bool, largest: int) -> tuple[str, ...]:
    if classes is None:
        return tuple(str(label) for label in range(largest + 1)) if labelled else ("image",)
    if largest >= len(classes):
        raise UserError(f"label {largest} has no name among the {len(classes)} classes: name every label from 0.")
    return tuple(map(str, classes))
