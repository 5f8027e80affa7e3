"""The real sentence encoder, from its package: neighbours in meaning, captions inside their record, refusals."""

import sys

import pytest
import torch

from wavedp import text
from wavedp.errors import UserError


def test_sentences_of_like_meaning_are_near():
    shirt, blouse, car = text.encode(["a photo of a shirt", "a picture of a blouse", "an engine running on petrol"])
    assert shirt.shape == (text.EMBEDDING_WIDTH,)
    torch.testing.assert_close(shirt.norm(), torch.tensor(1.0))
    assert shirt @ blouse > 0.5 > shirt @ car


def test_batching_and_repeats_change_nothing():
    sentences = ["a boot", "a rather long sentence about a sandal", "a boot"]
    together, alone = text.encode(sentences), torch.stack([text.encode([s])[0] for s in sentences])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert torch.equal(together[0], together[2])
    assert text.encode([]).shape == (0, text.EMBEDDING_WIDTH)


def test_all_captions_of_an_image_stay_in_its_record():
    rows = text.embed_captions(["a boot\na shoe", "a hat"], views=3)[:]
    boot, shoe, hat = text.encode(["a boot", "a shoe", "a hat"])
    for row, expected in zip(rows.flatten(0, 1), (boot, shoe, boot, hat, hat, hat), strict=True):
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="needs captions"):
        text.embed_captions(None, views=1)
    empty = tmp_path / "prompts.txt"
    empty.write_text("\n \n")
    with pytest.raises(UserError, match="holds no prompt"):
        text.read_prompts(str(empty))
    empty.write_text("a boot\n\na hat\n")
    assert text.read_prompts(str(empty)) == ["a boot", "a hat"]
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install 'wavedp"):
        text.check()
