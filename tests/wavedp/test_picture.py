"""Every kind of picture file becomes the right 8-bit pixels, or one sentence that names the file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from wavedp import data
from wavedp.config import DataConfig
from wavedp.data import picture
from wavedp.errors import UserError


def png(width, height, depth, colour, rows=b"", chunks=()):
    """A PNG by its bytes, for depths that Pillow cannot write. colour: PNG's colour type."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(array, sample_format):
    """A TIFF of grey pixels of any type, which Pillow reads and does not write. sample_format: 1 unsigned, 2 signed, 3
    floating."""
    content, (height, width) = array.tobytes(), array.shape
    tags = [(256, width), (257, height), (258, 8 * array.itemsize), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, len(content)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + struct.pack("<H", len(tags)) + entries + bytes(4)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(*values, kind=np.uint8):
    return np.array([values], kind)


def palette(*colours):
    image = Image.new("P", (len(colours), 1))
    image.putpalette([value for colour in colours for value in colour])
    image.putdata(range(len(colours)))
    return image


RED, WHITE = [255, 0, 0], [255, 255, 255]
RIGHT = {
    "16-bit grey PNG": (saved(Image.fromarray(grey(0, 128, 129, 65535, kind=np.uint16)), "PNG"), [0, 0, 1, 255]),
    "16-bit grey TIFF": (tiff(grey(0, 257, 65535, kind=np.uint16), 1), [0, 1, 255]),
    "16-bit grey PNG, one value transparent": (
        png(2, 1, 16, 0, b"\0" + grey(10, 257, kind=">u2").tobytes(), [(b"tRNS", struct.pack(">H", 10))]),
        [255, 1],
    ),
    "16-bit colour PNG": (png(1, 1, 16, 2, b"\0" + grey(0, 256, 65535, kind=">u2").tobytes()), [[0, 1, 255]]),
    "16-bit PGM": (b"P5 2 1 65535\n" + grey(257, 65535, kind=">u2").tobytes(), [1, 255]),
    "10-bit PGM": (b"P5 2 1 1023\n" + grey(0, 1023, kind=">u2").tobytes(), [0, 255]),
    "2-bit PNG": (png(4, 1, 2, 0, b"\0\x1b"), [0, 85, 170, 255]),
    "1-bit PNG": (saved(Image.fromarray(grey(True, False, kind=bool)), "PNG"), [255, 0]),
    "CMYK TIFF": (saved(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [RED]),
    "CMYK JPEG": (saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), [RED] * 64),
    "palette": (saved(palette(RED, (0, 9, 0)), "PNG"), [RED, [0, 9, 0]]),
    "palette with transparency": (saved(palette(RED, (0, 9, 0)), "PNG", transparency=1), [RED, WHITE]),
    "GIF with transparency": (saved(palette((0, 9, 0), RED), "GIF", transparency=0), [WHITE, RED]),
    "grey with alpha": (saved(Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8)), "PNG"), [[10] * 3, WHITE]),
    "turned by EXIF": (
        saved(Image.fromarray(np.array([[1, 2]], np.uint8)), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"
        b"\0\0\0\x01\0\x03\0\0\0\0\0\0"),
        [2, 1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
def test_pixels_mean_what_they_show(kind):
    file, expected = RIGHT[kind]
    found = picture.pixels(picture.load(io.BytesIO(file)))
    shape = (1, -1) if found.shape[0] == 1 else (3, -1)
    assert np.array_equal(found.reshape(shape).T.squeeze(), np.squeeze(expected)), found


PAGES = [Image.new("L", (2, 2), value) for value in (0, 90)]
PHOTOGRAPH = saved(Image.effect_noise((64, 64), 50), "JPEG")
REFUSED = {
    "32-bit TIFF": (tiff(grey(0, 2**32 - 1, kind=np.uint32), 1), "32-bit pixels have no fixed range"),
    "signed 32-bit TIFF": (tiff(grey(0, -1, kind=np.int32), 2), "signed pixels have no fixed range"),
    "signed 16-bit TIFF": (tiff(grey(0, -1, kind=np.int16), 2), "signed pixels have no fixed range"),
    "signed 8-bit TIFF": (tiff(grey(0, -1, kind=np.int8), 2), "signed pixels have no fixed range"),
    "floating TIFF": (tiff(grey(0, 1, kind=np.float32), 3), "floating-point pixels have no fixed range"),
    "animated GIF": (saved(PAGES[0], "GIF", save_all=True, append_images=PAGES[1:]), "it has 2 frames"),
    "TIFF of two pages": (saved(PAGES[0], "TIFF", save_all=True, append_images=PAGES[1:]), "it has 2 frames"),
    "truncated JPEG": (PHOTOGRAPH[: len(PHOTOGRAPH) // 2], "cannot be read"),
    "truncated TIFF": (saved(Image.effect_noise((64, 64), 50), "TIFF")[:2000], "cannot be read"),
    "empty": (b"", "cannot be read"),
    "text": (b"no picture", "cannot be read"),
    "too many pixels": (png(13_000, 13_000, 8, 0), "13,000 × 13,000 pixels, and 67,108,864 in all are read at most"),
    "far too many pixels": (png(20_000, 20_000, 8, 0), "more pixels, and 67,108,864 in all are read at most"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_what_loses_colour_or_depth_is_said_once(kind, caplog, monkeypatch):
    monkeypatch.setattr(picture, "_said", set())
    for name in ("first.png", "second.png"):
        picture.load(io.BytesIO(RIGHT[kind][0]), name=name)
    told = [record.getMessage() for record in caplog.records]
    deep = "16" in kind or "10" in kind
    assert len(told) == (1 if deep or "CMYK" in kind else 0)
    assert all(line.startswith("first.png has more than 8 bits" if deep else "first.png is CMYK") for line in told)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_pixels_is_one_sentence(kind, recwarn):
    file, words = REFUSED[kind]
    with pytest.raises(UserError, match=r"^here\.picture ") as refusal:
        picture.load(io.BytesIO(file), name="here.picture")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not recwarn


def test_the_limit_counts_the_pixels_that_are_decoded(tmp_path):
    file = tmp_path / "a.jpg"
    Image.new("L", (800, 800)).save(file)
    assert picture.load(file, at_least=90, max_pixels=10_000).size == (100, 100)
    with pytest.raises(UserError, match=r"a\.jpg has 800 × 800 pixels, and 10,000 in all"):
        picture.load(file, max_pixels=10_000)
    assert picture.load(file, max_pixels=640_000).size == (800, 800)


def test_a_dataset_folder_has_the_same_limit(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "large.png").write_bytes(png(13_000, 13_000, 8, 0))
    config = DataConfig(name="folder", path=str(tmp_path), size=8, channels=1, home=str(tmp_path / "home"))
    with pytest.raises(UserError, match=r"large\.png has 13,000 × 13,000 pixels"):
        data.load(config, "train")
