"""Icons and emoji on tiny packages: which pictures count, how they are drawn, and what damaged files say."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import logging
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

import wavedp.data
from wavedp.config import DataConfig
from wavedp.data import appearance, emoji, get, iconify, icons, npm, openclipart
from wavedp.data.dataset import position
from wavedp.errors import UserError
from wavedp.testing.datasets import DatasetSuite

CONF = Path(__file__).parents[2] / "conf" / "data"
ARROW = '<path fill="currentColor" d="M2 2h6v20H2z"/><path fill="currentColor" d="M2 2h20v4H2z"/>'  # a corner, top left
RING = '<circle cx="12" cy="12" r="9" fill="none" stroke="currentColor" stroke-width="2"/>'
FLAG = '<path fill="#f80" d="M2 4h20v8H2z"/><path fill="#3cf" d="M2 12h20v8H2z"/>'


def square(x: float) -> str:
    return f'<path fill="currentColor" d="M{x:.2f} 3h4v18h-4z"/>'


def write_package(home: Path, sets: dict[str, dict], about: dict[str, dict]) -> Path:
    """<home>/icons as `python -m wavedp.data.get icons` leaves it, but for the .gz."""
    root = home / "icons"
    (root / "json").mkdir(parents=True)
    (root / "collections.json").write_text(json.dumps(about))
    for name, content in sets.items():
        (root / "json" / f"{name}.json").write_text(json.dumps({"prefix": name, **content}))
    return root


def licensed(spdx: str | None, category: str | None = None, **more) -> dict:
    licence = {"title": "Own terms"} if spdx is None else {"title": spdx, "spdx": spdx}
    return {"name": "A set", "license": licence, **({"category": category} if category else {}), **more}


@pytest.fixture
def home(tmp_path) -> str:
    many = {f"thing{i}-outline": {"body": square(1 + i / 8)} for i in range(50)}
    sets = {
        "lines": {
            "icons": {
                "ring": {"body": RING},
                "ring-outline": {"body": RING.replace("9", "8")},
                "ring-bold-24": {"body": RING.replace("9", "7")},
                "corner": {"body": ARROW},
                "gone": {"body": ARROW.replace("20", "19"), "hidden": True},
                "spinner": {"body": '<circle r="3"><animate attributeName="r" dur="1s"/></circle>'},
                "word": {"body": "<text>hello</text>"},
                "point": {"body": ARROW, "width": 0},
                "void": {"body": ""},
                **many,
            },
            "aliases": {
                "edge": {"parent": "corner"},
                "corner-right": {"parent": "corner", "hFlip": True},
                "turned": {"parent": "corner", "rotate": 1},
                "far": {"parent": "turned", "rotate": 4, "vFlip": True},
                "lost": {"parent": "nobody", "rotate": 1},
                "snake": {"parent": "tail", "rotate": 1},
                "tail": {"parent": "snake", "rotate": 1},
            },
            "width": 24,
            "height": 24,
        },
        "colours": {"icons": {"flag": {"body": FLAG}, "ring": {"body": RING}}, "width": 24, "height": 24},
        "shared": {
            "icons": {"banner": {"body": FLAG.replace("#f80", "#0e0")}, "pennant": {"body": f"{FLAG} "}},
            "width": 24,
            "height": 24,
        },
        "own": {"icons": {"mine": {"body": square(0.4)}}, "width": 24, "height": 24},
    }
    about = {
        "lines": licensed("MIT", "UI 24px"),
        "colours": licensed("Apache-2.0", "Flags / Maps"),
        "shared": licensed("CC-BY-4.0", "Emoji"),
        "own": licensed(None),
    }
    write_package(tmp_path, sets, about)
    return str(tmp_path)


def config(home: str, **changes) -> DataConfig:
    return DataConfig(name="icons", home=home, **{"size": 16, **changes})


def listed(config: DataConfig) -> dict[tuple[str, str], str]:
    """{(set, name): split}."""
    return {
        (each.collection, each.name): split
        for split in ("train", "test")
        for each in icons._split_pictures(config, split)
    }


def of_both_splits(pattern: str) -> list[str]:
    """Ten names, three of which are in a test split of a twentieth."""
    names = [pattern.format(i) for i in range(200)]
    test = [name for name in names if position(name) < 0.05]
    return [*test[:3], *[name for name in names if name not in test][:7]]


class TestIcons(DatasetSuite):
    source = icons

    def config(self, tmp_path):
        pictures = {name: {"body": square(1 + i)} for i, name in enumerate(of_both_splits("thing{}"))}
        sets = {"one": {"icons": pictures}, "two": {"icons": {"banner": {"body": FLAG}}}}
        write_package(tmp_path, sets, {"one": licensed("MIT", "UI 24px"), "two": licensed("ISC", "Logos")})
        return DataConfig(name="icons", size=8, home=str(tmp_path), variants=2)


class TestEmoji(DatasetSuite):
    source = emoji

    def config(self, tmp_path):
        names = of_both_splits("{}.png")
        write_emoji(tmp_path, [entry(name[:-4], ("Objects", "Symbols")[i % 2]) for i, name in enumerate(names)])
        return DataConfig(name="emoji", size=8, channels=3, home=str(tmp_path), variants=2)


def test_pictures_of_permissive_sets_and_one_style_of_each(home):
    found = listed(config(home))
    names = {name for collection, name in found if collection == "lines" and not name.startswith("thing")}
    assert len(names & {"ring", "ring-outline", "ring-bold-24"}) == 1, "one style of a name"
    assert names - {"ring", "ring-outline", "ring-bold-24"} == {"corner", "corner-right", "turned", "far"}
    assert ("colours", "flag") in found
    assert not {"shared", "own"} & {collection for collection, _ in found}, "their licences are not permissive"
    assert len(found) == 50 + 5 + (("colours", "ring") in found) + 1


def test_a_drawing_that_another_set_repeats_counts_once(tmp_path):
    sets = {name: {"icons": {f"{name}ish": {"body": RING}}, "height": 24, "width": 24} for name in "abc"}
    sets["c"]["width"] = 25
    write_package(tmp_path, sets, {name: licensed("MIT") for name in sets})
    assert {collection for collection, _ in listed(config(str(tmp_path)))} in ({"a", "c"}, {"b", "c"})


def test_licences_are_chosen_by_name_and_known_for_each_record(home):
    more = config(home, licences="permissive+CC-BY-4.0")
    assert {collection for collection, _ in listed(more)} == {"lines", "colours", "shared"}
    assert {collection for collection, _ in listed(config(home, licences="CC-BY-4.0"))} == {"shared"}
    assert {collection for collection, _ in listed(config(home, licences="all"))} == {
        "lines",
        "colours",
        "shared",
        "own",
    }
    assert wavedp.data.class_names(more) == ("Emoji", "Flags / Maps", "UI 24px")
    limited = dataclasses.replace(config(home, licences="all"), limit=60, variants=2)
    said = wavedp.data.licences(limited, "train")
    assert said == [
        {"lines": "MIT", "colours": "Apache-2.0", "shared": "CC-BY-4.0", "own": "Own terms"}[each.collection]
        for each in (icons._split_pictures(limited, "train") * 2)[:60]
    ]
    whole = dataclasses.replace(limited, limit=None)
    assert len(wavedp.data.licences(whole, "train")) == wavedp.data.n_records(whole, "train")
    assert wavedp.data.licences(DataConfig(name="procedural"), "train") == []
    merged = dataclasses.replace(whole, duplicates="merge", variants=1)
    assert len(wavedp.data.licences(merged, "train")) == len(wavedp.data.load(merged, "train").labels)
    assert len(wavedp.data.load(merged, "train").labels) == wavedp.data.n_records(whole, "train") / 2 - 1


def test_a_data_card_names_the_licences_that_were_asked_for():
    assert wavedp.data.licence(DataConfig(name="icons")).startswith("MIT, Apache-2.0, CC0-1.0, ")
    said = wavedp.data.licence(DataConfig(name="icons", licences="permissive+CC-BY-4.0"))
    assert "MIT" in said
    assert "Unlicense, CC-BY-4.0 by set" in said
    assert wavedp.data.licence(DataConfig(name="emoji")) == emoji.LICENCE


def test_an_unknown_licence_is_a_sentence_that_lists_those_there_are(home):
    with pytest.raises(UserError, match=r"licences=MIT\+GLP names 'GLP'.*Apache-2\.0, CC-BY-4\.0, MIT, Own terms"):
        wavedp.data.n_records(config(home, licences="MIT+GLP"), "train")
    said = json.loads(Path(home, "icons", "collections.json").read_text(encoding="utf-8"))
    Path(home, "icons", "collections.json").write_text(json.dumps({"own": said["own"]}), encoding="utf-8")
    with pytest.raises(UserError, match=r"No icon set .* data\.licences=permissive: there are Own terms"):
        wavedp.data.n_records(config(home), "train")


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("home", "home"),
        ("home-outline-24", "home"),
        ("outline-home", "home"),
        ("home-20-filled", "home"),
        ("waving-hand-medium-light-skin-tone", "waving-hand"),
        ("rounded", "rounded"),
        ("outline", "outline"),
        ("dice-3", "dice-3"),
        ("light-bulb", "light-bulb"),
        ("flag-4x3", "flag"),
        ("home-crooked", "home"),
        ("sketch-home", "home"),
    ],
)
def test_a_name_without_its_style(name, base):
    assert iconify.base_name(name, ["sketch-", "-crooked"]) == base


def test_one_name_is_in_one_split_whatever_its_set_and_style(tmp_path):
    styles = {"a": "{}", "b": "{}-outline", "c": "outline-{}-24"}
    sets = {
        name: {"icons": {style.format(f"thing{i}"): {"body": square(i / 20 + 50 * ord(name))} for i in range(200)}}
        for name, style in styles.items()
    }
    write_package(tmp_path, sets, {name: licensed("MIT") for name in sets})
    split = listed(config(str(tmp_path)))
    assert len(split) == 600
    for i in range(200):
        wanted = "test" if position(f"thing{i}") < icons.TEST_SHARE else "train"
        assert {split[name, style.format(f"thing{i}")] for name, style in styles.items()} == {wanted}


def test_order_is_that_of_the_names_hashes_so_a_limit_is_a_mixed_sample(tmp_path):
    sets = {
        name: {"icons": {f"thing{i}": {"body": square(i / 20 + 50 * ord(name))} for i in range(100)}} for name in "abcd"
    }
    write_package(tmp_path, sets, {name: licensed("MIT", name) for name in sets})
    labels = wavedp.data.load(config(str(tmp_path), limit=100, size=4), "train").labels
    assert (np.bincount(labels) > 10).all()


def raster(root: Path, collection: str, name: str, side: int = 24) -> np.ndarray:
    return np.asarray(icons._raster(root, iconify.read_set(root, collection), collection, name, side))


def test_aliases_turn_and_mirror_as_the_format_says(home):
    root = Path(home, "icons")
    corner = raster(root, "lines", "corner")
    assert corner[4, 4].tolist() == [255, 255, 255, 255], "currentColor is white"
    assert corner[20, 20, 3] == 0
    assert np.array_equal(raster(root, "lines", "edge"), corner)
    assert np.array_equal(raster(root, "lines", "corner-right"), corner[:, ::-1])
    assert np.array_equal(raster(root, "lines", "turned"), np.rot90(corner, -1)), "rotate counts quarters, clockwise"
    # Mirroring comes before turning, and turns of a chain add up.
    assert np.array_equal(raster(root, "lines", "far"), np.rot90(corner[::-1], -1))
    for name in ("lost", "snake", "nobody"):
        with pytest.raises(KeyError):
            iconify.drawing(iconify.read_set(root, "lines"), name)


def test_the_view_box_is_the_pictures_own_then_its_sets_then_16(tmp_path):
    body = '<path fill="currentColor" d="M10 20h8v4h-8z"/>'
    icon = {"body": body, "left": 10, "top": 20, "width": 8, "height": 4}
    sets = {
        "a": {"icons": {"boxed": icon, "loose": {"body": body}}, "width": 40, "height": 80},
        "b": {"icons": {"x": {"body": RING}}},
    }
    root = write_package(tmp_path, sets, {"a": licensed("MIT"), "b": licensed("MIT")})
    assert raster(root, "a", "boxed", 16).shape == (8, 16, 4)
    assert (raster(root, "a", "boxed", 16)[..., 3] == 255).all()
    loose = raster(root, "a", "loose", 80)
    assert loose.shape == (80, 40, 4)
    assert Image.fromarray(loose).getbbox() == (10, 20, 18, 24)
    assert 'viewBox="0 0 16 16"' in iconify.drawing(iconify.read_set(root, "b"), "x").svg


def test_variants_come_after_all_pictures_and_keep_labels_and_captions(home):
    once, thrice = config(home), config(home, variants=3)
    n = wavedp.data.n_records(once, "train")
    assert wavedp.data.n_records(thrice, "train") == 3 * n
    first, all_three = wavedp.data.load(once, "train"), wavedp.data.load(thrice, "train")
    assert np.array_equal(all_three.images[:n], first.images)
    assert all_three.captions == first.captions * 3
    assert np.array_equal(all_three.labels, np.tile(first.labels, 3))
    differ = (all_three.images[n:].reshape(2, n, -1) != first.images.reshape(n, -1)).any(-1)
    assert differ.all(), "another variant looks otherwise"
    cut = wavedp.data.load(dataclasses.replace(thrice, limit=n + 3), "train")
    assert np.array_equal(cut.images, all_three.images[: n + 3])


def test_a_picture_with_colours_keeps_them_in_variant_0(home):
    root = Path(home, "icons")
    image = Image.fromarray(raster(root, "colours", "flag", 64))
    assert np.array_equal(appearance.draw(image, "flag", 0, 16, 3), openclipart.render(image.copy(), 16, 3))
    orange, blue = appearance.draw(image, "flag", 0, 16, 3)[:, [4, 12], 8].T
    assert orange[0] > 200 > 100 > orange[2]
    assert blue[2] > 200 > 100 > blue[0]
    tinted = appearance.draw(Image.fromarray(raster(root, "lines", "ring", 64)), "ring", 0, 16, 3)
    assert tinted.max() > 150


def test_captions_are_words_of_names():
    flags, plain = (iconify.Collection("A", category, "MIT") for category in ("Logos", "UI 24px"))
    assert icons.caption(iconify.Picture("a", "t-shirt-2-outline-24", "t-shirt-2"), plain) == "icon: t shirt 2"
    assert icons.caption(iconify.Picture("a", "traffic-light", "traffic"), plain) == "icon: traffic light"
    assert icons.caption(iconify.Picture("a", "acme_wordmark", "acme"), flags) == "logo: acme wordmark"


def disc(side: int = 64, colour: tuple[int, int, int] = (255, 255, 255), width: int = 0) -> Image.Image:
    image = Image.new("RGBA", (side, side))
    fill = None if width else (*colour, 255)
    ImageDraw.Draw(image).ellipse((4, 4, side - 5, side - 5), fill=fill, outline=(*colour, 255), width=width or 1)
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_appearances_are_bright_on_black_whole_and_differ(channels):
    for width in (0, 4):
        drawn = np.stack([appearance.draw(disc(width=width), f"thing{i}", 0, 28, channels) for i in range(60)])
        assert drawn.shape == (60, channels, 28, 28)
        assert (drawn.reshape(60, -1).max(1) > 120).all(), "bright"
        corners = drawn[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.max() < 60, "on black, and a disc leaves the corners free: nothing is cut"
        assert len({each.tobytes() for each in drawn}) == 60
    filled = np.stack([appearance.draw(disc(width=4), f"thing{i}", 0, 28, 1) for i in range(60)])
    assert 10 < (filled[:, 0, 12:16, 12:16].mean((1, 2)) > 40).sum() < 60, "most rings get a body, some do not"


def test_a_dark_picture_and_a_faint_one_are_bright():
    assert appearance.draw(disc(colour=(0, 0, 0)), "a", 0, 28, 1).max() > 120
    faint = disc()
    faint.putalpha(faint.getchannel("A").point(lambda value: value // 3))
    assert appearance.draw(faint, "a", 0, 28, 1).max() > 60
    assert not appearance.draw(Image.new("RGBA", (9, 9)), "a", 0, 28, 3).any(), "nothing visible is black"


def test_appearances_are_the_same_on_every_machine():
    """Means of one draw each, to a twentieth of a grey level: sines may differ in the last bit."""
    means = [appearance.draw(disc(width=6), name, v, 28, 3).mean() for name in ("a", "b") for v in (0, 1, 2)]
    assert means == pytest.approx(MEANS, abs=0.05)


MEANS = [59.1, 41.76, 31.93, 57.11, 27.39, 100.08]


@pytest.mark.parametrize("size", [4, 33, 300])
def test_appearances_at_any_size(size):
    for proportions in ((64, 64), (200, 3), (1, 90)):
        image = Image.new("RGBA", proportions, (255, 255, 255, 255))
        for i in range(4):
            assert appearance.draw(image, f"{i}", i, size, 1).max() > 60


def test_missing_and_damaged_packages_say_what_to_do(home, tmp_path):
    with pytest.raises(UserError, match=r"icons is not in .*: run `python -m wavedp\.data\.get icons --home"):
        wavedp.data.n_records(config(str(tmp_path / "nothing")), "train")
    with pytest.raises(UserError, match="icons has no val split"):
        wavedp.data.n_records(config(home), "val")
    file = Path(home, "icons", "json", "colours.json")
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    with pytest.raises(UserError, match=r"colours\.json cannot be read \(.*\): fetch the package again"):
        wavedp.data.load(config(home), "train")
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=r"colours\.json holds list where an object is due"):
        wavedp.data.load(config(home), "train")
    file.write_text('{"icons": 3}', encoding="utf-8")
    with pytest.raises(UserError, match=r"colours\.json is not an icon set"):
        wavedp.data.load(config(home), "train")
    file.unlink()
    with pytest.raises(UserError, match=r"colours\.json is missing, though collections\.json lists it"):
        wavedp.data.load(config(home), "train")
    assert iconify.missing(Path(home, "icons")) is not None
    packed = file.with_name("colours.json.gz")
    packed.write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(UserError, match=r"colours\.json\.gz cannot be read"):
        wavedp.data.load(config(home), "train")
    packed.write_bytes(gzip.compress(whole))
    assert iconify.missing(Path(home, "icons")) is None
    assert ("colours", "flag") in listed(config(home))
    Path(home, "icons", "collections.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"collections\.json cannot be read"):
        wavedp.data.class_names(config(home))


def test_a_broken_icon_is_refused_by_name_and_an_invisible_one_is_black(tmp_path, caplog):
    sets = {"a": {"icons": {"clear": {"body": '<path fill="none" d="M0 0h9v9z"/>'}, "ring": {"body": RING}}}}
    root = write_package(tmp_path, sets, {"a": licensed("MIT")})
    with caplog.at_level(logging.WARNING):
        loaded = wavedp.data.load(config(str(tmp_path), cache="off"), "train")
    assert sorted(loaded.images.reshape(2, -1).max(1) > 0) == [False, True]
    assert "1 of 2 icons draw nothing" in caplog.text
    sets["a"]["icons"]["ring"]["body"] = "<circle r="
    (root / "json" / "a.json").write_text(json.dumps(sets["a"]))
    with pytest.raises(UserError, match=r"The icon ring of .*a\.json cannot be drawn \(.*\): fetch the package again"):
        wavedp.data.load(config(str(tmp_path), cache="off"), "train")


def test_the_list_of_pictures_is_kept_and_made_anew_when_a_file_changes(home, monkeypatch):
    first = listed(config(home))
    icons._listed.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(iconify, "list_pictures", lambda *arguments: pytest.fail("listed again"))
        assert listed(config(home)) == first
    file = Path(home, "icons", "json", "colours.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    content["icons"]["new-thing"] = {"body": square(50)}
    file.write_text(json.dumps(content), encoding="utf-8")
    assert set(listed(config(home))) - set(first) == {("colours", "new-thing")}


def entry(code: str, category: str = "Objects", **changes) -> dict:
    return {
        "image": f"{code}.png",
        "category": category,
        "subcategory": "light & video",
        "name": f"THING {code}",
        "short_name": code,
        "has_img_google": True,
        "skin_variations": {"1F3FB": {"image": f"{code}-1f3fb.png"}},
        **changes,
    }


def write_emoji(home: Path, entries: list[dict]) -> None:
    folder = home / "emoji" / "64"
    folder.mkdir(parents=True)
    (home / "emoji" / "emoji.json").write_text(json.dumps(entries))
    for i, each in enumerate(entries):
        disc(16, ((37 * i) % 256, 200, 80)).save(folder / each["image"])


def test_emoji_leave_out_skin_tones_swatches_and_what_has_no_picture(tmp_path):
    entries = [
        entry("1f4a1"),
        entry("1f3fb", "Component"),
        entry("1f000", has_img_google=False),
        entry("1f9e6", name=None),
    ]
    write_emoji(tmp_path, entries)
    asked = DataConfig(name="emoji", home=str(tmp_path), size=16, channels=3)
    found = [(*each,) for each in emoji._listed(asked)]
    assert sorted(found) == [
        ("1f4a1.png", "Objects", "light & video", "THING 1f4a1"),
        ("1f9e6.png", "Objects", "light & video", "1f9e6"),
    ]
    assert emoji.caption(emoji.Emoji("a", "b", "animal-mammal", "DOG FACE")) == "animal mammal: dog face"
    n = wavedp.data.n_records(asked, "train")
    loaded = wavedp.data.load(dataclasses.replace(asked, variants=2), "train")
    assert len(loaded.labels) == 2 * n == len(wavedp.data.licences(dataclasses.replace(asked, variants=2), "train"))
    file = wavedp.data.record_files(asked, "train")[0]
    with Image.open(file) as image:
        assert np.array_equal(loaded.images[0], openclipart.render(image.copy(), 16, 3)), "as it is"
    assert not np.array_equal(loaded.images[n], loaded.images[0])
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(
        UserError, match=rf"{file.name} cannot be read .*: remove .* run `python -m wavedp\.data\.get emoji"
    ):
        wavedp.data.load(dataclasses.replace(asked, cache="off"), "train")
    assert emoji.missing(tmp_path / "emoji") is None
    file.unlink()
    assert emoji.missing(tmp_path / "emoji") == f"64/{file.name} is missing"


def test_missing_and_damaged_emoji_say_what_to_do(tmp_path):
    asked = DataConfig(name="emoji", home=str(tmp_path))
    with pytest.raises(UserError, match=r"emoji is not in .*: run `python -m wavedp\.data\.get emoji --home"):
        wavedp.data.n_records(asked, "train")
    write_emoji(tmp_path, [entry("1f4a1")])
    with pytest.raises(UserError, match="emoji has no val split"):
        wavedp.data.n_records(asked, "val")
    for content in ("[{", '[{"image": "a.png"}]', "3"):
        (tmp_path / "emoji" / "emoji.json").write_text(content)
        with pytest.raises(UserError, match=r"emoji\.json cannot be read"):
            wavedp.data.n_records(asked, "train")


def tarball(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def package(file: Path, **changes) -> get.Tarball:
    return dataclasses.replace(get._ICONS, **{"sha256": npm.sha256(file), **changes})


def test_of_a_package_only_the_wanted_files_are_kept_compressed(tmp_path, monkeypatch):
    said = json.dumps({"a": licensed("MIT")}).encode()
    content = {"collections.json": said, "json/a.json": b'{"icons": {}}', "dist/x.json": b"{}", "readme.md": b"words"}
    file = tarball(tmp_path / "made.tgz", content)
    monkeypatch.setattr(get, "download", lambda url, target: (shutil.copy(file, target), npm.sha256(file))[1])
    job = dataclasses.replace(get.DOWNLOADS["icons"], sources=package(file).sources())
    monkeypatch.setitem(get.DOWNLOADS, "icons", job)
    found = get.get("icons", tmp_path / "home")
    assert {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()} == {
        "collections.json",
        "json/a.json.gz",
    }
    assert iconify.read_set(found, "a") == {"icons": {}}
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["icons"]


def test_npm_pack_is_the_second_source_and_both_check_the_sha(tmp_path, monkeypatch):
    file = tarball(tmp_path / "made.tgz", {"collections.json": b"{}"})
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "npm"
    fake.write_text(f'#!/bin/sh\n[ "$2" = "@iconify/json@2.2.535" ] && cp {file} iconify-json.tgz\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "work").mkdir()
    assert (package(file).by_npm(tmp_path / "work") / "collections.json").read_bytes() == b"{}"
    (tmp_path / "wrong").mkdir()
    with pytest.raises(OSError, match="instead of 000"):
        package(file, sha256="0" * 64).by_npm(tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "files").exists()
    fake.write_text("#!/bin/sh\ntouch half.tgz\necho npm error network gone >&2\nexit 1\n")
    (tmp_path / "gone").mkdir()
    with pytest.raises(OSError, match="npm error network gone"):
        package(file).by_npm(tmp_path / "gone")
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="npm is not installed"):
        package(file).by_npm(tmp_path / "gone")
    assert get._ICONS.url == "https://registry.npmjs.org/@iconify/json/-/json-2.2.535.tgz"
    assert get._EMOJI.url.endswith("/emoji-datasource-google/-/emoji-datasource-google-16.0.0.tgz")


def test_a_tarball_cannot_write_elsewhere_and_a_cut_one_is_refused(tmp_path):
    everything = re.compile("(?P<to>.*)")
    with pytest.raises(OSError, match="points out of the package"):
        npm.unpack(tarball(tmp_path / "a.tgz", {"../../escaped": b"x"}), everything, tmp_path / "out")
    assert not (tmp_path / "escaped").exists()
    whole = tarball(tmp_path / "b.tgz", {"x": np.random.default_rng(0).bytes(20_000)}).read_bytes()
    for damaged in (b"", b"words", whole[:5], whole[:3000], whole[:-12000]):
        (tmp_path / "c.tgz").write_bytes(damaged)
        with pytest.raises(OSError, match=r"c\.tgz cannot be read"):
            npm.unpack(tmp_path / "c.tgz", everything, tmp_path / "out")


@pytest.mark.parametrize("name", ["icons", "emoji"])
def test_the_shipped_yaml_is_the_default_of_the_code(name):
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    default = dataclasses.asdict(DataConfig(name=name))
    assert {key: value for key, value in values.items() if value != default[key]} == {
        "size": "${data.size}",
        "channels": "${data.channels}",
    }
    assert set(default) - set(values) <= {
        "licences", "attribute", "parts", "names", "words", "per_name", "named_share", "ship",
    }  # fmt: skip
