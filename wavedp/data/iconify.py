"""The icon sets of the npm package @iconify/json: which there are, which pictures they hold, and a picture as SVG.

<root>/collections.json describes every set (name, category, licence); <root>/json/<set>.json, or the same file as
.json.gz, holds its pictures: the inside of each <svg>, its view box, and aliases, which are another name for a picture
or the picture turned by quarters and mirrored. The format: https://iconify.design/docs/types/iconify-icon.html.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from wavedp.data.dataset import position
from wavedp.errors import UserError

PERMISSIVE = tuple("0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause CC0-1.0 ISC MIT MIT-0 Unlicense Zlib".split())  # noqa: SIM905
# What a still renderer without fonts would draw otherwise on each machine, or not at all: the first moment of an
# animation is often an empty picture.
MOVING_OR_FOREIGN = re.compile(r"<(?:animate|set\b|text|image|foreignObject|script|style)")
SIDE = 16  # of the view box, where neither the picture nor its set says one
# Words at the ends of a name that say how a picture is drawn, not what it shows.
STYLES = frozenset(
    """
    alt baseline bold broken bulk color colored colour dark default duo duotone fill filled flat ios large lg light
    line linear md medium micro mini mono monotone original outline outlined outlines plain regular round rounded
    rounder sharp skin sm small solid stroke thin tone two twotone variant wordmark xl xs
    """.split()  # noqa: SIM905
)
ONLY_STYLES = frozenset(
    """
    baseline duotone fill filled linear monotone outline outlined outlines rounded solid twotone
    """.split()  # noqa: SIM905
)
"""Those that hardly ever say what a picture shows: they are left out of captions, and of the beginnings of names."""
SIZE = re.compile(r"\d{2}|\d+x\d+")  # -24, -16, -1x1: two digits are the side of a grid far oftener than a number


class Picture(NamedTuple):
    """One picture: its set, its name there, and the name without the words and sizes that say how it is drawn."""

    collection: str
    name: str
    base: str


@dataclass(frozen=True)
class Collection:
    """What collections.json says of a set. licence: its SPDX id, or its title where there is none."""

    title: str
    category: str
    licence: str


@dataclass(frozen=True)
class Drawing:
    """A picture as SVG, and what the raster needs afterwards: mirrored, then turned clockwise by quarters."""

    svg: str
    proportions: tuple[float, float]
    flip_x: bool
    flip_y: bool
    quarters: int


def collections(root: Path) -> dict[str, Collection]:
    """{set: what is said of it}, sorted. Raises UserError if the file is missing or cannot be read."""
    said = _json(root / "collections.json")
    found = {}
    for key in sorted(said):
        about = said[key] if isinstance(said[key], dict) else {}
        licence = about.get("license") or {}
        found[key] = Collection(
            str(about.get("name", key)),
            str(about.get("category") or "Other"),
            str(licence.get("spdx") or licence.get("title") or "not stated"),
        )
    return found


def set_file(root: Path, collection: str) -> Path:
    """The file of a set. Raises UserError if there is none."""
    plain = root / "json" / f"{collection}.json"
    for path in (plain.with_name(f"{plain.name}.gz"), plain):
        if path.is_file():
            return path
    raise UserError(f"{plain} is missing, though collections.json lists it: fetch the package again.")


def read_set(root: Path, collection: str) -> dict[str, Any]:
    """The JSON of a set. Raises UserError if it is missing, truncated or of another form."""
    path = set_file(root, collection)
    content = _json(path)
    if not isinstance(content.get("icons"), dict) or not isinstance(content.get("aliases", {}), dict):
        raise UserError(f"{path} is not an icon set (it has no `icons`): fetch the package again.")
    return content


def list_pictures(root: Path, chosen: Iterable[str]) -> list[Picture]:
    """The pictures of the chosen sets, in the order of `position`: one of each name's styles, and one of each drawing.

    Left out are pictures that their set hides, that move, that need fonts or other files, or that are empty.
    """
    found: list[tuple[float, Picture, bytes]] = []
    for collection in chosen:
        found += _one_of_each_style(collection, read_set(root, collection))
    found.sort()
    seen: set[bytes] = set()
    kept = []
    for _, picture, drawing in found:  # sets that continue another one repeat its drawings, under any name
        if drawing not in seen:
            seen.add(drawing)
            kept.append(picture)
    return kept


def missing(root: Path) -> str | None:
    """Why a folder is not the unpacked package; None if collections.json and every set that it lists are there."""
    try:
        for name in collections(root):
            set_file(root, name)
    except UserError as error:
        return str(error)
    return None


def _one_of_each_style(collection: str, content: dict[str, Any]) -> Iterator[tuple[float, Picture, bytes]]:
    """Position, picture and digest of the drawing. Of a name's styles the first in the order of `position`, so that
    outlines, silhouettes and weights are mixed as they are in the set."""
    affixes = [f"-{end}" for end in content.get("suffixes", ()) if end]
    affixes += [f"{start}-" for start in content.get("prefixes", ()) if start]
    affixes.sort(key=len, reverse=True)
    best: dict[str, tuple[float, str, dict[str, Any]]] = {}
    for name, icon in _icons(content):
        base, place = base_name(name, affixes), position(f"{collection}:{name}")
        if base not in best or place < best[base][0]:
            best[base] = (place, name, icon)
    for base, (place, name, icon) in best.items():
        yield place, Picture(collection, name, base), _digest(icon)


def base_name(name: str, affixes: Iterable[str] = ()) -> str:
    """`home-outline-24` -> `home`. affixes: those that the set itself declares, as `-end` and `start-`, longest first.

    A name of nothing but style words keeps its first word.
    """
    while True:
        before = name
        for affix in affixes:
            rest = name.removesuffix(affix) if affix.startswith("-") else name.removeprefix(affix)
            if rest != name and rest.strip("-"):
                name = rest
                break
        words = name.split("-")
        if len(words) > 1 and (words[-1] in STYLES or SIZE.fullmatch(words[-1])):
            words.pop()
        elif len(words) > 1 and words[0] in ONLY_STYLES:
            words.pop(0)
        name = "-".join(words)
        if name == before:
            return name


def words(name: str) -> str:
    """`t-shirt-2-outline-24` -> `t shirt 2`: the name without what can only be its style or its grid."""
    parts = [part for part in re.split(r"[-_]+", name) if part]
    while len(parts) > 1 and (parts[-1] in ONLY_STYLES or SIZE.fullmatch(parts[-1])):
        parts.pop()
    while len(parts) > 1 and parts[0] in ONLY_STYLES:
        parts.pop(0)
    return " ".join(parts)


def drawing(content: dict[str, Any], name: str) -> Drawing:
    """A picture of a set that `read_set` gave, in white where the set leaves the colour to its user.

    Raises KeyError for a name that the set lacks.
    """
    icon = _resolve(content, name)
    if icon is None:
        raise KeyError(name)
    left, top, width, height = (icon[side] for side in ("left", "top", "width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#fff" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    return Drawing(svg, (width, height), icon["hFlip"], icon["vFlip"], icon["rotate"])


def _icons(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pictures and turned or mirrored aliases. An alias that only gives a picture another name is none of its own."""
    for name in [*content["icons"], *content.get("aliases", {})]:
        if name not in content["icons"] and not {"rotate", "hFlip", "vFlip"} & set(content["aliases"][name]):
            continue
        icon = _resolve(content, name)
        if icon and not icon["hidden"] and _has_area(icon) and not MOVING_OR_FOREIGN.search(icon["body"]):
            yield name, icon


def _resolve(content: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Body, view box and turns of a picture or alias; None for a name whose chain of aliases ends nowhere.

    Turns along the chain add up and mirrorings cancel out; of everything else the outermost value holds.
    """
    made: dict[str, Any] = {"rotate": 0, "hFlip": False, "vFlip": False, "hidden": False}
    passed = set()
    while name not in content["icons"]:
        alias = content.get("aliases", {}).get(name)
        if name in passed or not isinstance(alias, dict) or "parent" not in alias:
            return None
        passed.add(name)
        _add(made, alias)
        name = alias["parent"]
    icon = content["icons"][name]
    if not isinstance(icon, dict) or not isinstance(icon.get("body"), str):
        return None
    _add(made, icon)
    for side, default in (("left", 0), ("top", 0), ("width", SIDE), ("height", SIDE)):
        made.setdefault(side, content.get(side, default))
    return {**made, "body": icon["body"], "rotate": made["rotate"] % 4}


def _has_area(icon: dict[str, Any]) -> bool:
    """False for the few pictures whose view box has no side, or whose body is empty."""
    return bool(icon["body"].strip()) and icon["width"] > 0 and icon["height"] > 0


def _add(made: dict[str, Any], more: dict[str, Any]) -> None:
    made["rotate"] += int(more.get("rotate", 0))
    for flip in ("hFlip", "vFlip"):
        made[flip] ^= bool(more.get(flip, False))
    made["hidden"] |= bool(more.get("hidden", False))
    for side in ("left", "top", "width", "height"):
        if side in more:
            made.setdefault(side, more[side])


def _digest(icon: dict[str, Any]) -> bytes:
    about = [icon[key] for key in ("left", "top", "width", "height", "rotate", "hFlip", "vFlip")]
    return hashlib.sha256(f"{about}{icon['body']}".encode(errors="surrogateescape")).digest()[:12]


def _json(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        content = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch the package again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__} where an object is due: fetch the package again.")
    return content
