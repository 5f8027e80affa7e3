"""Appearances of flat public pictures: bright, shaded and textured things on black, drawn by a name.

A line icon says what a thing looks like, not how light falls on it. `draw` gives it a body: outlines are thickened or
not, the regions that they enclose are filled with a brightness each, and the whole gets a gradient, a light from one
side, a texture, a place and an aspect. Everything is a function of the picture's name and the number of the variant, so
that a set is the same on every machine and grows without changing. Pictures that have colours keep them in variant 0,
which is drawn as Open Clip Art is (`wavedp.data.openclipart.render`); in later variants their hues turn, and they get
place, aspect and shading as the others do.

The constants are chosen by how the pictures look and by Open Clip Art's mean and standard deviation of pixels.
Arrays: R is the side of the square in which a picture is prepared, at least as large as the image.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

from wavedp.data import openclipart, procedural

if TYPE_CHECKING:
    from PIL import Image

SPARE = 64
"""The least R: below it, lines and gaps would run together before they are drawn."""
FLAT = 16
"""Grey levels by which the visible pixels of a picture without colours differ at most."""
TEXTURES = ("blobs", "stripes", "checker", "rings", "dots")


class Dice:
    """Numbers that follow from a text: each call gives the next one."""

    def __init__(self, text: str) -> None:
        stream = hashlib.shake_256(text.encode(errors="surrogateescape")).digest(4 * 64)
        self._numbers = iter((np.frombuffer(stream, "<u4") / 2.0**32).tolist())

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)

    def chance(self, probability: float) -> bool:
        return next(self._numbers) < probability


def side(size: int) -> int:
    """R for images of this size: twice as large, so that the last step is antialiased; equal to it for large ones."""
    return max(SPARE, 2 * size if size <= 256 else size)


def draw(
    image: Image.Image, name: str, variant: int, size: int, channels: int, coloured: bool | None = None
) -> np.ndarray:
    """One appearance of a picture: uint8 [channels size size].

    image: of any mode, transparent where nothing is drawn. A picture without anything visible is black.
    coloured: whether its colours are its own (None: if it has more than one).
    """
    from PIL import Image

    image = image.convert("RGBA")
    visible = image.getbbox()
    if visible is None:
        return np.zeros((channels, size, size), np.uint8)
    image = image.crop(visible)
    if coloured is None:
        coloured = _has_colours(image)
    if coloured and variant == 0:
        return openclipart.render(image, size, channels)
    dice = Dice(f"{name}\0{variant}")
    width, height, left, top = _box(dice, image.width, image.height, size)
    if dice.chance(0.5):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    prepared = _fit(image, side(size))
    drawn = _recoloured(dice, prepared) if coloured else _given_a_body(dice, prepared[..., 3])
    return _placed(drawn, width, height, left, top, size, channels)


def _has_colours(image: Image.Image) -> bool:
    """False if all that is visible has one grey, whatever its opacity: white, black or the colour of a text."""
    pixels = np.asarray(image)
    seen = pixels[pixels[..., 3] > 127][:, :3]
    if not len(seen):
        seen = pixels[pixels[..., 3] > 0][:, :3]
    return int(seen.max()) - int(seen.min()) > FLAT


def _box(dice: Dice, width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Width, height, left and top of the picture in the square: half of all fill it, half keep their aspect."""
    stretch = math.exp(dice.between(-0.3, 0.3) if dice.chance(0.5) else 0.0)
    scale = dice.between(0.7, 1.0) if dice.chance(0.4) else 1.0
    wide, high = width * stretch, height / stretch
    unit = scale * size / max(wide, high)
    columns, rows = (min(size, max(1, round(unit * length))) for length in (wide, high))
    spread = 0.5 if dice.chance(0.3) else 0.0
    shifts = [dice.between(0.5 - spread, 0.5 + spread) for _ in range(2)]
    return columns, rows, round((size - columns) * shifts[0]), round((size - rows) * shifts[1])


def _fit(image: Image.Image, room: int) -> np.ndarray:
    """The picture stretched over R×R pixels within a border that its outline may grow into: R R 4 float32, its colours
    multiplied by its opacity."""
    from PIL import Image

    border = max(1, room // 32)
    inner = room - 2 * border
    fitted = image.convert("RGBa").resize((inner, inner), Image.Resampling.BICUBIC)
    canvas = np.zeros((room, room, 4), np.float32)
    canvas[border : room - border, border : room - border] = np.asarray(fitted)
    return canvas


def _given_a_body(dice: Dice, mask: np.ndarray) -> np.ndarray:
    """The opacity of a picture without colours, R R of any scale -> R R 3 in [0, 1], premultiplied."""
    from scipy import ndimage

    room, mask = len(mask), mask / max(float(mask.max()), 1.0)
    thicken = dice.between(0, 1)
    steps = (thicken > 0.4) + (thicken > 0.75)  # of a 64th of the side each
    if steps:
        mask = ndimage.grey_dilation(mask, size=1 + 2 * max(1, round(steps * room / 128)))
    light, body = dice.between(0.75, 1.0), dice.between(0.75, 1.0)
    line = (1.0, body * dice.between(0.2, 0.7), body)[int(dice.between(0, 3))]
    regions = _regions(mask, dice.chance(0.85), body, dice.chance(0.5), dice)
    covered = np.maximum(mask, regions > 0)
    shade = np.where(regions > 0, mask * line + (1 - mask) * regions, mask * line) * _lit(dice, covered)
    return _bright(shade, covered, light)[..., None] * _tint(dice, room)


def _bright(shade: np.ndarray, covered: np.ndarray, light: float) -> np.ndarray:
    """The picture, R R or R R 3, times what makes all but its brightest twentieth at most `light`, then clipped."""
    seen = (shade if shade.ndim == 2 else shade.max(-1))[covered > 0.5]
    brightest = float(np.quantile(seen, 0.95)) if len(seen) else 1.0
    return np.clip(shade * np.float32(light / max(brightest, 1 / 255)), 0, 1)


def _regions(mask: np.ndarray, filled: bool, body: float, apart: bool, dice: Dice) -> np.ndarray:
    """R R: the brightness of what the lines enclose, 0 elsewhere. apart: each region has a brightness of its own."""
    from scipy import ndimage

    first, step = dice.between(0, 1), dice.between(0.25, 0.75)
    if not filled:
        return np.zeros_like(mask)
    labels, n = ndimage.label(mask <= 0.5)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    places = (first + step * np.arange(n + 1)) % 1.0  # neighbours in number differ
    values = (body * (0.45 + 0.55 * places if apart else np.ones(n + 1))).astype(np.float32)
    values[0] = body  # beneath the lines
    values[outside[outside > 0]] = 0
    inside = values[labels]
    beneath = ndimage.binary_dilation((labels > 0) & (inside > 0), iterations=2) & (labels == 0)
    return np.where(beneath | (labels > 0), inside, 0)


def _lit(dice: Dice, covered: np.ndarray) -> np.ndarray:
    """R R factors in about [0.2, 1.2]: a gradient, a light on a rounded body, a texture; each of them or none."""
    from scipy import ndimage

    room = len(covered)
    axis = ((np.arange(room) + 0.5) / room * 2 - 1).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    angle = 2 * math.pi * dice.between(0, 1)
    along = math.cos(angle) * x + math.sin(angle) * y
    factor = np.ones_like(covered, np.float32)
    kind, depth = dice.between(0, 1), dice.between(0.2, 0.65)
    if kind < 0.4:
        factor *= 1 - depth * np.clip(0.5 + 0.5 * along, 0, 1)
    elif kind < 0.6:
        middle = (0.4 * math.cos(angle), 0.4 * math.sin(angle))
        factor *= 1 - depth * np.clip(np.hypot(x - middle[0], y - middle[1]) / 1.4, 0, 1)
    relief, slope = dice.chance(0.5), dice.between(0.3, 0.8)
    if relief:
        height = ndimage.gaussian_filter(covered.astype(np.float32), room / 20)
        down = np.gradient(height, 2 / room)
        factor *= 1 + 0.35 * slope * np.clip(math.cos(angle) * down[1] + math.sin(angle) * down[0], -1.5, 0.6)
    textured, which = dice.chance(0.3), TEXTURES[int(dice.between(0, len(TEXTURES)))]
    turn, reach, contrast = dice.between(0, math.pi), dice.between(0.15, 0.5), dice.between(0.15, 0.55)
    if textured:
        u = (math.cos(turn) * x + math.sin(turn) * y) / reach
        v = (math.cos(turn) * y - math.sin(turn) * x) / reach
        factor *= 1 - contrast * procedural.coverage_of(which, u, v, np.asarray(room * reach / 2, np.float32))
    return factor


def _tint(dice: Dice, room: int) -> np.ndarray:
    """R R 3, the largest of the three 1: one hue, or one that runs into another. White, a fifth of the time."""
    hue, strength = dice.between(0, 1), dice.between(0.1, 0.85)
    second = hue + dice.between(-0.25, 0.25)
    two, angle, plain = dice.chance(0.4), 2 * math.pi * dice.between(0, 1), dice.chance(0.2)
    first = np.array(colorsys.hsv_to_rgb(hue % 1, 0.0 if plain else strength, 1.0), np.float32)
    if not two or plain:
        return first[None, None]
    axis = ((np.arange(room) + 0.5) / room * 2 - 1).astype(np.float32)
    share = np.clip(0.5 + 0.5 * (math.cos(angle) * axis[None] + math.sin(angle) * axis[:, None]), 0, 1)[..., None]
    return first * (1 - share) + np.array(colorsys.hsv_to_rgb(second % 1, strength, 1.0), np.float32) * share


def _recoloured(dice: Dice, prepared: np.ndarray) -> np.ndarray:
    """A picture with colours, R R 4 in [0, 255], premultiplied -> R R 3 in [0, 1] of turned hues and another light."""
    rgb, alpha = prepared[..., :3] / 255, prepared[..., 3:] / 255
    luma = openclipart.luma_of(rgb)
    if luma.sum() < alpha.sum() / 2:
        rgb, luma = rgb + (alpha - 2 * luma), alpha - luma
    turned = np.stack([rgb[..., i] for i in _order(dice)], -1)
    share = dice.between(0, 1)
    mixed = luma + (share * rgb + (1 - share) * turned - luma) * dice.between(0.4, 1.1)
    mixed = np.clip(mixed, 0, 1) ** np.float32(dice.between(0.7, 1.4))
    return _bright(mixed * _lit(dice, alpha[..., 0])[..., None], alpha[..., 0], dice.between(0.75, 1.0))


def _order(dice: Dice) -> tuple[int, int, int]:
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    return orders[int(dice.between(0, len(orders)))]


def _placed(drawn: np.ndarray, width: int, height: int, left: int, top: int, size: int, channels: int) -> np.ndarray:
    """R R 3 in [0, 1] -> uint8 [channels size size] with the picture in its box. Grey is the largest of R, G, B: hues
    are bright, as the greys of a black-and-white picture of bright things are."""
    from PIL import Image

    pixels = np.rint(255 * (drawn.max(-1, keepdims=True) if channels == 1 else drawn)).astype(np.uint8)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    fitted = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))
    canvas = np.zeros((size, size, channels), np.uint8)
    canvas[top : top + height, left : left + width] = fitted.reshape(height, width, channels)
    return canvas.transpose(2, 0, 1)
