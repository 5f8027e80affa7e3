"""Drawn faces with ten captions each: what they say is what is drawn, no face comes twice, and none without the
package."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from PIL import Image

from wavedp import data
from wavedp.config import DataConfig
from wavedp.data import avatars
from wavedp.errors import UserError
from wavedp.testing.datasets import DatasetSuite

FACE = avatars.Face(
    "man", "short curly", "red", "pale", "glasses", "a full beard", "smiling", "open", "hoodie", "blue", "green"
)
TABLES = {
    "hair": avatars.MAN_HAIR, "hair_colour": avatars.HAIR_COLOURS, "skin": avatars.SKINS, "glasses": avatars.GLASSES,
    "beard": avatars.BEARDS, "mouth": avatars.MOUTHS, "eyes": avatars.EYES, "clothes": avatars.CLOTHES,
    "colour": avatars.COLOURS, "background": avatars.BACKGROUNDS,
}  # fmt: skip


class TestAvatars(DatasetSuite):
    source = avatars

    def config(self, tmp_path):
        return DataConfig(name="avatars", size=16, channels=3, n_records=40, home=str(tmp_path / "home"))


def test_every_attribute_is_seen_and_told():
    """Another value of an attribute is another picture and other captions."""
    for name, table in TABLES.items():
        others = [FACE._replace(**{name: word}) for word in table]
        pictures = {avatars.draw(face, 64, 3).tobytes() for face in others}
        told = {tuple(avatars.sentences(face)) for face in others}
        assert len(pictures) == len(told) == len(table), name
    women = [FACE._replace(gender="woman", beard="", hair=word) for word in avatars.WOMAN_HAIR]
    assert len({avatars.draw(face, 64, 3).tobytes() for face in women}) == len(women)


def test_ten_sentences_that_say_what_is_drawn():
    told = avatars.sentences(FACE)
    assert len(set(told)) == 10
    assert told == avatars.sentences(FACE), "the same face always has the same captions"
    assert told[0] in ("The man has short curly red hair and wears glasses.",
                       "This man has short curly red hair and wears glasses.")  # fmt: skip
    together = " ".join(told)
    for words in ("is smiling", "a full beard", "pale skin", "a blue hoodie", "background is green", "eyes are open"):
        assert words in together, words
    bare = " ".join(avatars.sentences(FACE._replace(glasses="", beard="", hair="bald", hair_colour="black")))
    assert "is bald" in bare
    assert "beard" not in bare
    assert "black" not in bare, "hair that is not there has no colour"


def test_no_face_twice_and_none_in_two_divisions():
    train, test, held = avatars.faces("train", 3000), avatars.faces("test", 750), avatars.faces("prompts", 100)
    assert len({*train, *test, *held}) == 3850
    assert avatars.faces("train", 100) == train[:100], "a longer set begins with the shorter one"
    women = sum(face.gender == "woman" for face in train)
    assert 1400 < women < 1600
    assert not any(face.beard for face in train if face.gender == "woman")


def test_a_record_is_one_picture_with_its_ten_captions():
    """The caption of a place is that of the face that is drawn there, whichever part of the set is read."""
    config = DataConfig(name="avatars", size=32, channels=3, n_records=24, cache="off")
    whole, told = data.load(config, "train"), data.captions(config, "train")
    assert list(whole.captions) == told
    for place, face in enumerate(avatars.faces("train", 24)):
        assert whole.captions[place].splitlines() == avatars.sentences(face)
        assert np.array_equal(whole.images[place], avatars.draw(face, 32, 3))
        assert whole.classes[whole.labels[place]] == ("bald" if face.hair == "bald" else face.hair_colour)
    assert data.repeats(dataclasses.replace(config, cache="decoded"), "train").copies == 1


def test_every_size_is_the_same_picture():
    for size, channels in ((256, 3), (63, 3), (16, 1)):
        drawn = avatars.draw(FACE, size, channels)
        assert drawn.shape == (channels, size, size)
    large = Image.fromarray(avatars.draw(FACE, 256, 3).transpose(1, 2, 0)).resize((64, 64), Image.Resampling.BOX)
    difference = np.asarray(large, float).transpose(2, 0, 1) - avatars.draw(FACE, 64, 3)
    assert np.abs(difference).mean() < 2  # of 255; edges differ


def test_prompts_are_sentences_of_no_record():
    config = DataConfig(name="avatars", n_records=512)
    said = data.prompts(config)
    assert len(said) == len(set(said)) == avatars.PROMPTS
    held = avatars.faces("prompts", avatars.PROMPTS)
    assert not {*held} & {*avatars.faces("train", 512), *avatars.faces("test", 128)}
    assert data.prompts(dataclasses.replace(config, n_records=64)) == said, "whatever the records are"
    assert data.prompts(DataConfig(name="procedural")) == []


def test_refusals(monkeypatch):
    for values, words in (
        ({"n_records": 3}, "use 4 to"),
        ({"n_records": 2_000_000}, "use 4 to"),
        ({"size": 3}, "size=3"),
    ):
        with pytest.raises(UserError, match=words):
            data.load(DataConfig(name="avatars", cache="off", **values), "train")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    avatars._drawings.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'wavedp\[data\]'"):
        data.load(DataConfig(name="avatars", channels=3, n_records=8), "train")
    avatars._drawings.cache_clear()
