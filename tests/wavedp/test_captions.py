"""A set's captions: each sentence encoded once, in a table that may lie in a file; which of them a step shows."""

import dataclasses
import os
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from zlib import crc32

import pytest
import torch

from wavedp import chain, checks, mapped, stages, text
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.spectral_ar.model import SpectralARModel
from wavedp.generators.token_model import record_loss
from wavedp.privacy.accounting import mechanisms
from wavedp.privacy.checkpoint import digest
from wavedp.privacy.clipping import RecordGradients
from wavedp.privacy.telling import Telling
from wavedp.privacy.training import fit_private
from wavedp.progress import silent
from wavedp.store import Store
from wavedp.tokenizers import untrained

LENGTH, WIDTH = 4, text.EMBEDDING_WIDTH + 1
RECORDS = ["a\nb\nc", "b", "d\na", "e\nf\ng\nh\ni"]


def states(sentences):
    """In place of an encoder: numbers that are a sentence's own."""
    made = [torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(crc32(s.encode()))) for s in sentences]
    return torch.stack(made).half() if made else torch.zeros(0, LENGTH, WIDTH).half()


def all_ten(records=6, views=1, drawn=True):
    """Ten captions each."""
    said = ["\n".join(f"picture {r} {c}" for c in range(10)) for r in range(records)]
    return text.embed_captions(said, views, states, drawn=drawn)


# --- what is encoded and kept


def test_each_sentence_is_encoded_once_and_only_if_it_may_be_shown():
    for drawn, wanted in ((False, "abde f".replace(" ", "")), (True, "abcdefghi")):
        seen = []
        found = text.embed_captions(RECORDS, 2, lambda given: (seen.extend(given), states(given))[1], drawn=drawn)  # noqa: B023
        assert sorted(seen) == sorted(wanted)
        assert found.table.shape == (len(wanted), LENGTH, WIDTH)
        assert found.shape == (4, 2, LENGTH, WIDTH)
        for place, lines in enumerate(("ab", "bb", "da", "ef")):
            assert torch.equal(found[place : place + 1][0], states(list(lines)))
    assert text.embed_captions([], 2, states)[:].shape == (0, 2, LENGTH, WIDTH)


def test_it_is_indexed_like_the_tensor_that_it_stands_for():
    found = text.embed_captions(RECORDS, 3, states)
    whole = states([lines[v % len(lines)] for lines in map(str.splitlines, RECORDS) for v in range(3)])
    whole = whole.view(4, 3, LENGTH, WIDTH)
    assert (len(found), found.shape, found.ndim, found.dtype) == (4, tuple(whole.shape), whole.ndim, whole.dtype)
    for rows in (torch.tensor([2, 0, 2]), slice(1, 3), slice(None)):
        assert torch.equal(found[rows], whole[rows])
    assert digest([("x", found)]) == digest([("x", whole)]), "a release keeps the name that the whole tensor gave it"
    assert torch.equal(found.one_each(torch.tensor([3, 1]))[:], whole[[3, 1], 0])


def test_sentences_are_encoded_beside_the_same_ones_in_every_process():
    """The states of a sentence are rounded by what stands beside it, and a fit goes on only from its own records."""
    work = "from wavedp import text; print(text._by_length(['bb', 'ab', 'c', 'a', 'bb', 'ba']))"
    for seed in "123":
        asked = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", work], env=asked, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "['a', 'c', 'ab', 'ba', 'bb']"


@pytest.mark.skipif(sys.platform != "linux", reason="open files are read from /proc")
def test_a_large_table_lies_in_a_file_that_nobody_else_opens_and_that_goes(tmp_path, monkeypatch):
    whole = text.embed_captions(RECORDS, 2, states, drawn=True)
    monkeypatch.setattr(mapped, "HELD", 1000)
    asked = []
    unpatched = mapped.tempfile.TemporaryFile

    def opened(*arguments, **named):
        file = unpatched(*arguments, **named)
        asked.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))
        return file

    monkeypatch.setattr(mapped.tempfile, "TemporaryFile", opened)
    found = text.embed_captions(RECORDS, 2, states, tmp_path, drawn=True)
    assert asked == [0o600]
    assert torch.equal(found.table, whole.table)
    assert list(tmp_path.iterdir()) == [], "it has no name"
    assert str(tmp_path) in Path("/proc/self/maps").read_text(encoding="utf-8")
    del found
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(encoding="utf-8"), "it goes with the table"


def test_a_full_disk_is_said_in_words_of_captions(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(mapped, "HELD", 1000)
    monkeypatch.setattr(mapped.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"9 different captions of 4×385 float16 .*No space left.*captions=first"):
        text.embed_captions(RECORDS, 2, states, tmp_path, drawn=True)


# --- which captions a step shows


def shown(captions, chances):
    return captions.shown(captions.numbers, chances)


def test_a_record_shows_different_captions_and_all_before_one_repeats():
    found = text.embed_captions(RECORDS, 3, states, drawn=True)
    names = {tuple(row[0, :3].tolist()): name for name, row in zip("abcdefghi", states("abcdefghi"), strict=True)}
    counts = [Counter() for _ in RECORDS]
    for step in range(400):
        chances = torch.rand(4, found.draws, generator=torch.Generator().manual_seed(step))
        for place, views in enumerate(shown(found, chances)):
            said = [names[tuple(view[0, :3].tolist())] for view in views]
            own = RECORDS[place].splitlines()
            assert set(said) <= set(own)
            assert len(set(said)) == min(3, len(own))
            counts[place].update(said)
    assert counts[0] == Counter(a=400, b=400, c=400)
    assert counts[1] == Counter(b=1200)
    assert all(abs(counts[2][name] - 600) < 60 for name in "ad"), counts[2]  # two of three views, in turn
    assert all(abs(counts[3][name] - 240) < 50 for name in "efghi"), counts[3]


def model_of(views, **changes):
    tokenizer = untrained(configure("tokenizer", "scalar"), (1, 8, 8), 0)
    values = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 0, "conditioning": "tokens", **changes}
    config = configure("generator", "spectral_ar", **{"text_tokens": LENGTH, "condition_dropout": 0.2, **values})
    model = SpectralARModel(config, tokenizer, tokenizer, 1, "cpu")
    torch.manual_seed(0)
    first = model._model(tokenizer, 1)
    for parameter in first.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return model, {name: value.clone() for name, value in first.state_dict().items()}, images


def fitted(conditions, path, views=1, steps=6, report=silent, microbatch=64, epsilon=8.0):
    model, weights, images = model_of(views)
    privacy = PrivacyConfig(
        epsilon=epsilon,
        delta=1e-3,
        batch_size=4,
        steps=steps,
        views=views,
        checkpoint_every=4,
        microbatch_size=microbatch,
    )
    planned = {"private_fit": mechanisms(privacy, len(images))[-1]}
    return model.fit_private(weights, images, conditions, FitSettings(privacy, planned, 5, path), report)


def same(one, other):
    return all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


def test_the_first_captions_give_the_fit_that_a_tensor_of_them_gives(tmp_path):
    captions = all_ten(views=2, drawn=False)
    alone, whole = fitted(captions, tmp_path / "a", 2), fitted(captions[:], tmp_path / "b", 2)
    assert alone.releases == whole.releases
    assert same(alone, whole)


def test_a_fit_shows_all_ten_of_a_record_in_one_view_a_step(tmp_path, monkeypatch):
    captions, seen = all_ten(), set()
    told = Telling.batch

    def batch(self, given):
        found = told(self, given)
        seen.update(tuple(row[:3].tolist()) for row in found[1][:, 0, 0])
        return found

    monkeypatch.setattr(Telling, "batch", batch)
    fitted(captions, tmp_path / "a", steps=200)
    assert seen == {tuple(row[:3].tolist()) for row in captions.table[:, 0]}
    assert len(seen) == 60, "six records' ten"


@pytest.mark.parametrize("views", [1, 3])
def test_a_stopped_fit_goes_on_with_the_captions_that_it_would_have_shown(tmp_path, views):
    unbroken = fitted(all_ten(views=views), tmp_path / "whole", views)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        fitted(all_ten(views=views), tmp_path / "parts", views, report=stop)
    assert same(unbroken, fitted(all_ten(views=views), tmp_path / "parts", views))
    assert not same(unbroken, fitted(all_ten(views=views, drawn=False), tmp_path / "first", views))


def test_the_cut_into_microbatches_chooses_nothing(tmp_path):
    captions = all_ten(views=2)
    telling, chance = Telling((captions,), 0, torch.device("cpu")), torch.rand(6, 10)
    (whole,) = telling.batch([captions.numbers, chance])
    for size in (1, 4):
        parts = zip(captions.numbers.split(size), chance.split(size), strict=True)
        assert torch.equal(torch.cat([telling.batch(list(part))[0] for part in parts]), whole)
    fits = [fitted(captions, tmp_path / str(size), 2, microbatch=size) for size in (1, 64)]
    assert fits[0].releases == fits[1].releases
    for name, value in fits[0].weights.items():
        torch.testing.assert_close(value, fits[1].weights[name], rtol=0, atol=1e-3)


def test_drawn_captions_never_lengthen_a_record_s_gradient():
    """Whatever is drawn, one record moves the sum by at most C; what is drawn turns it."""
    captions, (model, weights, images) = all_ten(1, views=3), model_of(3)
    decoder = model._model(model.tokenizer, 1, weights)
    with torch.no_grad():
        decoder.condition.project.weight *= 10
    loss, codes = record_loss(model.tokenizer, PrivacyConfig(views=3), 0.2), model._codes(images[:1], 3, Path())
    telling = Telling((codes, captions), 3, torch.device("cpu"))
    assert telling.draws == 3 + 10
    found = []
    for seed in range(20):
        chance = torch.rand(1, telling.draws, generator=torch.Generator().manual_seed(seed))
        chance[:, :3] = 0.9  # drop no caption
        batch = telling.batch([*telling.records, chance])
        assert batch[1].shape == (1, 3, LENGTH, WIDTH)
        assert torch.equal(batch[2], chance[:, :3])
        gradients = RecordGradients(decoder, 0.7, "bookkeeping")
        found.append(torch.cat([part.flatten() for part in gradients.clipped_sum(loss, batch)]))
        gradients.close()
        assert found[-1].norm() <= 0.7 * (1 + 1e-5)
    assert (found[0] - found[1]).norm() > 5e-3


def test_what_is_drawn_from_is_part_of_the_release_s_name():
    images, ids = torch.rand(6, 1, 8, 8), set()
    config = PrivacyConfig(epsilon=float("inf"), delta=1e-3, batch_size=3, steps=1)

    def loss(net, images, given):
        return net(given[:, 0].float()).square().mean((1, 2))

    other = dataclasses.replace(all_ten(), numbers=all_ten().numbers.flip(1))
    for captions in (all_ten(), all_ten(drawn=False), other):
        torch.manual_seed(0)
        layer = torch.nn.Linear(WIDTH, 1)
        ids.add(fit_private(layer, loss, (images, captions), config, noise_multiplier=0.0, seed=1).release)
    assert len(ids) == 3


# --- the setting


def trial(**changes):
    faces = DataConfig(name="avatars", size=16, channels=3, n_records=64)
    values = {"data": faces, "public": None, "metrics": MetricsConfig(downstream_steps=0),
              "sampling": SamplingConfig(n=4), "upscaler": "bicubic",
              "privacy": PrivacyConfig(epsilon=8.0, batch_size=8, steps=2, views=2)}  # fmt: skip
    conditioning = changes.pop("conditioning", "tokens")
    generator = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 0, "conditioning": conditioning, **changes}
    return TrialConfig(generator=configure("generator", "spectral_ar", **generator), **values)


def test_the_setting_moves_the_private_fit_and_no_public_stage():
    drawn, first = chain.keys(trial()), chain.keys(trial(captions="first"))
    moved = [stage for stage in drawn if drawn[stage] != first[stage]]
    assert moved == ["private_fit", "coarse_samples", "upscale", "evaluate"]
    content = chain.methods.generator(trial()).content
    assert content(trial(captions="first").generator).get("captions") is None, "as before there was a choice"
    assert content(trial(conditioning="class").generator).get("captions") is None
    by_class = chain.keys(trial(conditioning="class"))
    assert by_class == chain.keys(trial(conditioning="class", captions="first"))


def test_a_study_of_drawn_captions_runs_and_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "encode_tokens", lambda given, length, folder, device: states_of_32(given))
    store = Store(str(tmp_path))
    assert checks.check(trial()) is not None
    _, made = stages.make("coarse_samples", trial(), store, "cpu")
    assert made
    assert not stages.make("coarse_samples", trial(), store, "cpu")[1]
    (line,) = stages.make("private_fit", trial(), store, "cpu")[0].json("ledger")
    assert line["release"]


def states_of_32(given):
    return torch.zeros(len(given), 32, WIDTH).half() if not given else states(given).repeat(1, 8, 1)
