"""Public models that come with the package: found by key, verified, listed, built again; and nothing else is."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import wavedp
from sweeps.plan import PlannedTrial
from sweeps.row import finished
from sweeps.summary import describe
from wavedp import chain, checks, data, entries, stages
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure, to_dict
from wavedp.data import facts, overlap, procedural
from wavedp.entries import HERE, Zoo, behind
from wavedp.errors import UserError
from wavedp.methods import canonical
from wavedp.run import main as run_plan
from wavedp.store import Draft, Store
from wavedp.zoo import adding, checking
from wavedp.zoo.__main__ import main
from wavedp.zoo.settings import anywhere

LIMIT = 12_000_000
TINY = TrialConfig(
    data=DataConfig(name="procedural", n_records=64),
    public=DataConfig(name="procedural", split="public", n_records=48, limit=48),
    generator=configure("generator", "spectral_ar", width=16, depth=1, heads=2, pretrain_steps=2, pretrain_batch=8),
    privacy=PrivacyConfig(epsilon=4.0, batch_size=16, steps=2),
    sampling=SamplingConfig(n=12),
    upscaler="bicubic",
    metrics=MetricsConfig(fid_samples=8, reference_samples=16, downstream_steps=0),
)
KEY = chain.keys(TINY, "pretrain")["pretrain"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A store in which a study has made its public models, and a zoo with one entry of it."""
    root = tmp_path_factory.mktemp("made")
    store = Store(str(root / "store"), behind=())
    stages.make("pretrain", TINY, store, "cpu")
    adding.add("tiny", TINY, "pretrain", store, root / "zoo", command="python -m sweeps.run +sweep=tiny")
    return root


@pytest.fixture
def zoo(made, tmp_path) -> Path:
    """A copy of that zoo, to be spoilt."""
    shutil.copytree(made / "zoo", tmp_path / "zoo")
    (tmp_path / "zoo" / "facts").mkdir(exist_ok=True)
    return tmp_path / "zoo"


def store_with(zoo: Path, **options) -> Store:
    return Store(str(zoo.parent / "store"), behind(Zoo(path=str(zoo), **options)))


def entry_file(zoo: Path, **changes) -> None:
    """Change values in the entry's file."""
    path = zoo / "models" / "tiny" / "entry.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- what comes with the package ---------------------------------------------------------


def test_the_package_s_entries_are_whole_small_and_asked_for(tmp_path):
    size = sum(
        file.stat().st_size for part in ("models", "facts") for file in (HERE / part).rglob("*") if file.is_file()
    )
    assert size <= LIMIT
    for name in entries.names(HERE):
        entry = entries.read(HERE / "models" / name)
        assert not entry.licensed("not stated")
        entry.content()
        assert checking.key_here(entry, str(tmp_path)) == entry.key  # by their facts: nothing is there
        assert all(one["facts"] is None or (HERE / "facts" / one["facts"]).is_file() for one in entry.data)


# --- found by key ---------------------------------------------------------


def test_a_store_finds_an_entry_by_key_and_copies_nothing(made, zoo):
    store = store_with(zoo)
    assert store.open("pretrain", KEY) == Store(str(made / "store"), behind=()).open("pretrain", KEY)
    assert store.has("pretrain", KEY)
    assert store.which("pretrain", [KEY, "00" * 32]) == {KEY}
    assert store.origin("pretrain", KEY) == "tiny"
    assert store.open("tokenizer", KEY) is None
    assert store.origin("pretrain", "00" * 32) is None
    assert not Path(store.path).exists()


def test_a_store_that_has_read_the_zoo_is_sent_to_other_processes_without_its_files(zoo):
    store = store_with(zoo)
    read = store.open("pretrain", KEY)
    sent = pickle.dumps(store)
    assert len(sent) < 4096 < sum(map(len, read.files.values()))
    assert pickle.loads(sent).open("pretrain", KEY).files == read.files


def test_the_store_s_own_artifact_comes_first(zoo):
    own = Draft()
    own.json("note", {"mine": True})
    store = store_with(zoo)
    assert store.publish("pretrain", KEY, own).json("note") == {"mine": True}
    assert store.open("pretrain", KEY).json("note") == {"mine": True}
    assert store.origin("pretrain", KEY) is None


def test_a_trial_trains_no_public_model_that_the_zoo_has(zoo, monkeypatch):
    def forbidden(work):
        raise AssertionError("it was trained")

    monkeypatch.setitem(stages.MAKE, "pretrain", forbidden)
    samples, _ = stages.make("coarse_samples", TINY, store_with(zoo), "cpu")
    assert samples.tensors("samples")["images"].shape == (12, 1, 14, 14)
    assert not (zoo.parent / "store" / "pretrain").exists()


def test_run_has_an_argument_for_it(zoo, monkeypatch):
    for stage in ("reference", "pretrain", "private_fit"):
        monkeypatch.setitem(stages.MAKE, stage, lambda work, stage=stage: asked.append(stage))
    for choice, trained in ((False, ["pretrain"]), (Zoo(path=str(zoo)), [])):
        asked: list[str] = []
        with pytest.raises(KeyError):  # what was not made is missing
            wavedp.run(TINY, str(zoo.parent / str(len(trained))), "cpu", quiet=True, zoo=choice)
        assert asked == ["reference", *trained, "private_fit"]


def test_the_package_s_zoo_is_behind_every_store(zoo, monkeypatch, tmp_path):
    monkeypatch.setattr(entries, "HERE", zoo)
    assert Store(str(tmp_path / "any")).has("pretrain", KEY)
    assert not Store(str(tmp_path / "any"), behind=()).has("pretrain", KEY)
    assert not Store(str(tmp_path / "any"), behind(Zoo(use=False))).has("pretrain", KEY)


def test_a_plan_counts_an_entry_as_there_and_its_row_names_it(zoo, tmp_path):
    store, trial = store_with(zoo), PlannedTrial("one", {}, canonical(TINY), chain.keys(TINY))
    text = describe([trial], store, {})
    assert re.search(r"pretrain +1 +1 +0  from the zoo: tiny\n", text)
    assert re.search(r"private_fit +1 +0 +1\n", text)
    images = torch.zeros(10, 1, 28, 28)
    for stage, tensors, values in (
        ("private_fit", None, {"ledger": []}),
        ("evaluate", None, {"metrics": {}}),
        ("coarse_samples", {"images": images[..., ::2, ::2], "labels": torch.arange(10)}, {}),
        ("upscale", {"images": images.byte(), "labels": torch.arange(10)}, {"upscaler": {"bridge": None}}),
    ):
        made = Draft()
        if tensors:
            made.tensors("samples", tensors)
        for name, value in values.items():
            made.json(name, value)
        store.publish(stage, trial.keys[stage], made)
    assert finished(trial, store)[0]["zoo"] == {"pretrain": "tiny"}
    store.publish("pretrain", KEY, Draft())
    assert "zoo" not in finished(trial, store)[0]


@pytest.mark.parametrize("used", [True, False])
def test_a_plan_says_whether_the_zoo_is_used_where_it_is_made(zoo, tmp_path, capsys, used):
    rows = [{"id": "one", "axes": {}, "config": to_dict(TINY), "keys": chain.keys(TINY)}]
    (tmp_path / "plan.json").write_text(json.dumps({"trials": rows, "zoo": {"use": used, "path": str(zoo)}}))
    arguments = [str(tmp_path / "plan.json"), "--stages", "pretrain", "--store", str(tmp_path / "s"), "--dry-run"]
    assert run_plan(arguments) == 0
    assert ("in the store" in capsys.readouterr().out) == used
    assert run_plan([*arguments, "--no-zoo"]) == 0
    assert "to make" in capsys.readouterr().out


# --- bad entries ---------------------------------------------------------


def flip(zoo):
    path = zoo / "models" / "tiny" / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (flip, r"tiny is damaged \(weights.safetensors differs from its sha256\): restore it"),
        (lambda zoo: (zoo / "models" / "tiny" / "weights.safetensors").unlink(), r"weights.safetensors cannot be read"),
        (
            lambda zoo: entry_file(zoo, format=2),
            "has format 2 and this version of wavedp reads 1: update wavedp. It is not",
        ),
        (lambda zoo: entry_file(zoo, files=None), "entry.json is damaged"),
        (lambda zoo: entry_file(zoo, unheard="of"), "entry.json is damaged"),
        (lambda zoo: (zoo / "models" / "tiny" / "entry.json").write_text("{broken"), "entry.json is damaged"),
        (
            lambda zoo: entry_file(zoo, stage="private_fit"),
            "only tokenizer, pretrain, upscaler learn from public images",
        ),
        (
            lambda zoo: entry_file(zoo, files={"ledger.json": "00"}),
            "learn from public images alone: take the entry out",
        ),
        (lambda zoo: entry_file(zoo, files={"../weights.safetensors": "00"}), "does not describe tiny"),
    ],
)
def test_a_bad_entry_is_not_used_and_its_stage_is_trained(zoo, spoil, words):
    spoil(zoo)
    store = store_with(zoo)
    with pytest.warns(UserWarning, match=words):
        assert not store.has("pretrain", KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert stages.make("pretrain", TINY, store, "cpu")[1]


@pytest.mark.parametrize(
    ("licence", "named", "out"),
    [
        ("GPL-2.0-or-later", "GPL-2.0", True),
        ("gpl-2.0", "GPL-2.0", True),
        ("LGPL-2.0", "GPL-2.0", False),
        ("GPL-2+ (the package)", "GPL-2.0", True),
        ("GPL-2.1", "GPL-2.0", False),
        ("CC-BY-SA-4.0", "CC-BY", True),
        ("permitted", "MIT", False),
    ],
)
def test_an_excluded_licence_leaves_an_entry_out_in_one_sentence(zoo, licence, named, out, caplog):
    entry_file(zoo, licence=licence)
    entries._say.cache_clear()
    store = store_with(zoo, exclude_licences=(named,))
    with caplog.at_level(logging.WARNING):
        assert store.has("pretrain", KEY) == (not out)
        assert store.has("pretrain", KEY) == (not out)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"zoo.exclude_licences={named} leaves out tiny, so its stage pretrain is trained."] * out


def test_a_licence_of_the_data_counts_too(zoo):
    assert not store_with(zoo, exclude_licences=["Apache-2.0"]).has("pretrain", KEY)
    entry_file(zoo, licence="CC0")
    assert not store_with(zoo, exclude_licences=["Apache-2.0"]).has("pretrain", KEY)  # procedural images have it


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"use": "maybe"}, "zoo.use='maybe' is neither true nor false"),
        ({"exclude_licences": "MIT"}, "zoo.exclude_licences='MIT' is no list of names"),
        ({"path": "/nowhere"}, "zoo.path=/nowhere has no folder models"),
    ],
)
def test_what_is_no_choice_of_entries_is_refused(values, words):
    with pytest.raises(UserError, match=words):
        Zoo(**values)


# --- the commands ---------------------------------------------------------


def said(capsys, *arguments, status=0):
    assert main(list(arguments)) == status
    printed = capsys.readouterr()
    return printed.out + printed.err


def test_list_and_verify(zoo, capsys):
    listed = said(capsys, "list", "--zoo", str(zoo))
    assert all(word in listed for word in ("tiny", "pretrain", KEY[:12], "procedural", "Apache-2.0", "+sweep=tiny"))
    assert f"this code asks for its key {KEY[:12]}" in said(capsys, "verify", "--zoo", str(zoo))
    flip(zoo)
    assert "differs from its sha256" in said(capsys, "verify", "tiny", "--zoo", str(zoo), status=1)
    assert "has no entry 'tniy': did you mean tiny?" in said(capsys, "verify", "tniy", "--zoo", str(zoo), status=2)
    assert "is empty" in said(capsys, "list", "--zoo", str(empty(zoo)))


def empty(zoo):
    shutil.rmtree(zoo / "models" / "tiny")
    return zoo


def test_an_entry_that_no_study_asks_for_any_more(zoo, capsys):
    settings = json.loads((zoo / "models" / "tiny" / "entry.json").read_text())["settings"]
    settings["generator"]["width"] = 32
    entry_file(zoo, settings=settings)
    for command in (["verify", "tiny"], ["rebuild", "tiny"]):
        printed = said(capsys, *command, "--zoo", str(zoo), status=1 if command[0] == "verify" else 2)
        assert f"tiny has the key {KEY[:12]} and this code asks for" in printed
    settings["generator"]["wdith"] = 3
    entry_file(zoo, settings=settings)
    assert "the key of tiny cannot be made here" in said(capsys, "verify", "tiny", "--zoo", str(zoo), status=1)


def test_an_entry_s_settings_say_what_decides_its_key_and_nothing_of_the_machine(zoo):
    settings = json.loads((zoo / "models" / "tiny" / "entry.json").read_text())["settings"]
    assert set(settings) == {"public", "generator"}  # of the sensitive set only shape and classes, as by default
    assert set(settings["public"]) == {"name", "split", "n_records"}  # a limit that limits nothing


def test_a_command_is_kept_without_folders_of_this_machine():
    typed = "python -m sweeps.run +sweep=tiny privacy.steps=3 store=/a results=b data.home=/c 'sweep.seeds=[0, 1]'"
    assert anywhere(typed) == "python -m sweeps.run +sweep=tiny privacy.steps=3 'sweep.seeds=[0, 1]'"


def test_rebuild_is_bit_equal_here_and_says_by_how_much_it_is_not(zoo, capsys, monkeypatch):
    monkeypatch.setattr(entries, "HERE", zoo)  # where it would be found instead of trained
    assert "tiny is bit-equal" in said(capsys, "rebuild", "tiny")
    entry = entries.read(zoo / "models" / "tiny")
    artifact = store_with(zoo).open("pretrain", KEY)
    moved = Draft()
    weights = artifact.tensors("weights")
    first = sorted(weights)[0]
    weights[first] = weights[first] + 0.25
    moved.tensors("weights", weights)
    (entry.folder / "weights.safetensors").write_bytes(moved.files["weights.safetensors"])
    entry_file(zoo, files={name: entries.sha256(content) for name, content in moved.files.items()})
    printed = said(capsys, "rebuild", "tiny", "--zoo", str(zoo), status=1)
    assert "the largest difference is 0.25, beyond the 0 that the entry allows" in printed
    entry_file(zoo, tolerance=0.3)
    assert "within the 0.3 that" in said(capsys, "rebuild", "tiny", "--zoo", str(zoo))


def test_add_refuses_what_is_no_public_model(made, tmp_path, capsys):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(wavedp.config.settings_of(TINY)))
    store = str(made / "store")
    for stage, name, words in (
        ("tokenizer", "codes", "holds no weight, and any store makes it in no time"),
        ("private_fit", "fit", "--stage private_fit is not a public training"),
        ("upscaler", "up", "upscaler=bicubic is not trained"),
        ("pretrain", "Tiny!", "is no name of an entry"),
    ):
        arguments = [
            name,
            "--settings",
            str(settings),
            "--stage",
            stage,
            "--store",
            store,
            "--zoo",
            str(tmp_path / "z"),
        ]
        if stage == "tokenizer":
            stages.make("tokenizer", TINY, Store(store, behind=()), "cpu")
        assert words in said(capsys, "add", *arguments, status=2)
    arguments = ["one", "--settings", str(settings), "--stage", "pretrain", "--zoo", str(tmp_path / "z"), "--store"]
    assert "has no pretrain" in said(capsys, "add", *arguments, str(tmp_path / "none"), status=2)
    assert "MB of" in said(capsys, "add", *arguments, store)
    assert "is there already" in said(capsys, "add", *arguments, store, status=2)
    same = dataclasses.replace(TINY, data=TINY.public)
    with pytest.raises(UserError, match="the stage pretrain looked at sensitive images"):
        adding.require_public(same, "pretrain", Store(store, behind=()).open("pretrain", KEY))


# --- public images that are not here ---------------------------------------------------------


def draw(folder: Path, n: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (n, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture
def with_files(tmp_path) -> TrialConfig:
    """A trial whose public images are files: twelve of their own, and one of one colour."""
    draw(tmp_path / "pictures" / "train" / "a", 6, seed=1)
    draw(tmp_path / "pictures" / "train" / "b", 6, seed=2)
    Image.new("L", (8, 8)).save(tmp_path / "pictures" / "train" / "b" / "plain.png")
    home = str(tmp_path / "home")
    public = DataConfig(name="folder", path=str(tmp_path / "pictures"), size=8, home=home)
    generator = dataclasses.replace(TINY.generator, pretrain_batch=4)
    sensitive = DataConfig(name="procedural", size=8, n_records=32, home=home)
    return dataclasses.replace(TINY, data=sensitive, public=public, generator=generator)


@pytest.fixture
def without_images(with_files, tmp_path) -> tuple[TrialConfig, Path]:
    """A zoo whose public images are no longer here."""
    store = Store(str(tmp_path / "first"), behind=())
    stages.make("pretrain", with_files, store, "cpu")
    adding.add("drawn", with_files, "pretrain", store, tmp_path / "zoo", command="x", data_licences={"folder": "CC0"})
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    Zoo(path=str(tmp_path / "zoo"))  # this process knows its facts
    for remembered in (
        chain.fingerprint,
        chain.n_records,
        chain.has_images,
        overlap._splits,
        overlap._files,
        overlap.shared,
    ):
        remembered.cache_clear()
    yield with_files, tmp_path / "zoo"
    entries._known.pop(tmp_path / "zoo")


def test_a_model_of_the_zoo_needs_no_public_image(without_images, tmp_path):
    trial, zoo = without_images
    store, public = store_with(zoo), trial.public
    checks.check(trial)
    checks.check_images(trial, store)
    samples, _ = stages.make("coarse_samples", trial, store, "cpu")
    assert samples.tensors("samples")["images"].shape == (12, 1, 4, 4)
    here = dataclasses.replace(public, path=str(tmp_path / "elsewhere"))
    assert data.fingerprint(public, "train") == data.fingerprint(here, "train")
    assert data.n_records(public, "train") == 13
    assert data.class_names(public) == ("a", "b")
    assert data.shape(public) == (1, 8, 8)
    assert not data.has_captions(public)
    with pytest.raises(UserError, match=r"path=.*pictures"):
        data.load(public, "train")
    with pytest.raises(UserError, match=r"pictures"):
        data.fingerprint(public, "test")  # which nobody knows of


def test_a_training_that_is_needed_still_asks_for_the_images_before_anything_runs(without_images, tmp_path):
    trial, zoo = without_images
    with pytest.raises(
        UserError, match=r"pretrain [0-9a-f]{12} is in neither .*store nor the zoo and has to be made, but"
    ):
        wavedp.run(trial, str(tmp_path / "store"), "cpu", quiet=True, zoo=False)
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))
    more = dataclasses.replace(trial, generator=dataclasses.replace(trial.generator, pretrain_steps=3))
    with pytest.raises(UserError, match="has to be made"):
        checks.check_images(more, store_with(zoo))
    checks.check_images(trial, store_with(zoo))


@pytest.mark.parametrize("tokens", [False, True])
def test_real_images_as_samples_learn_from_no_public_image_and_ask_for_none(without_images, tmp_path, tokens):
    trial, _ = without_images
    ceiling = dataclasses.replace(trial, generator={"name": "real", "tokens": tokens})
    store = Store(str(tmp_path / "ceilings"), behind=())
    checks.check_images(ceiling, store)
    assert stages.make("upscale", ceiling, store, "cpu")[1]
    assert chain.keys(ceiling)["pretrain"] != chain.keys(dataclasses.replace(ceiling, public=None))["pretrain"]


@pytest.mark.parametrize("kind", ["file", "plain file", "pixels", "plain", "none"])
def test_sensitive_records_among_unseen_public_images_are_refused(without_images, tmp_path, kind):
    trial, _ = without_images
    there = tmp_path / "elsewhere" / "train"
    mine = tmp_path / "mine" / "train" / "x"
    draw(mine, 3, seed=9)
    if kind == "file":
        shutil.copy(there / "a" / "3.png", mine / "copy.png")
    elif kind == "plain file":
        shutil.copy(there / "b" / "plain.png", mine / "copy.png")
    elif kind == "pixels":
        Image.open(there / "a" / "3.png").save(mine / "copy.bmp")  # the same pixels in other bytes
    elif kind == "plain":
        Image.new("L", (8, 8)).save(mine / "copy.bmp")  # unrelated sets have one
    sensitive = DataConfig(name="folder", path=str(tmp_path / "mine"), size=8, home=trial.public.home)
    if kind in ("file", "plain file", "pixels"):
        with pytest.raises(
            UserError, match=r"1 of 13 public images \(folder, train\) are records of the sensitive set"
        ):
            overlap.refuse_shared(sensitive, [(trial.public, "train")])
    else:
        overlap.refuse_shared(sensitive, [(trial.public, "train")])
    assert overlap.warn_of_copies(sensitive, [(trial.public, "train")]) == []


def test_images_that_are_here_win_over_facts(without_images, tmp_path):
    trial, zoo = without_images
    draw(tmp_path / "pictures" / "train" / "a", 9, seed=5)
    assert data.n_records(trial.public, "train") == 9
    assert chain.keys(trial, "pretrain")["pretrain"] != entries.read(zoo / "models" / "drawn").key
    (tmp_path / "pictures" / "train" / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"0\.png"):
        data.fingerprint(trial.public, "train")


@pytest.fixture
def rounded(tmp_path, monkeypatch):
    """rounded(n): facts of 2,000 drawn pictures are here, and this machine draws n of them one grey level brighter."""
    public = DataConfig(name="procedural", split="public", n_records=2000, size=8, home=str(tmp_path))
    seen = data.load(public, "train")
    told = facts.of(public, "CC0-1.0", [(seen, [])])
    (tmp_path / "drawn.facts.json").write_text(told.text())
    read = procedural.read

    def by(n):
        def drawn(config, split, count):
            images, *rest = read(config, split, count)
            images[:n, :, 0, 0] ^= 1
            return images, *rest

        monkeypatch.setattr(procedural, "read", drawn)
        return public, seen.fingerprint

    return by


@pytest.mark.parametrize(("n", "same"), [(0, True), (2, True), (3, False)])
def test_images_that_differ_by_rounding_bear_the_recorded_fingerprint(rounded, n, same):
    public, recorded = rounded(n)
    loaded = data.load(public, "train")
    assert (loaded.fingerprint == recorded) is same
    assert data.fingerprint(public, "train") == loaded.fingerprint
    if n:  # the images are those of this machine all the same
        assert data.content_fingerprint(loaded.images, loaded.labels, loaded.captions) != recorded


def test_fewer_records_than_the_facts_know_are_another_set(rounded):
    public, recorded = rounded(0)
    less = dataclasses.replace(public, n_records=1999)
    assert data.fingerprint(less, "train") != recorded


def test_a_changed_file_is_no_rounding(tmp_path):
    """Its pixels differ in one record of 1,001, and that record has another file."""
    pixels = np.random.default_rng(0).integers(0, 256, (1001, 1, 8, 8), dtype=np.uint8)
    files = [tmp_path / f"{i}.bin" for i in range(1001)]
    for file, image in zip(files, pixels, strict=True):
        file.write_bytes(image.tobytes())
    config = DataConfig(name="folder", path=str(tmp_path), size=8, home=str(tmp_path))
    seen = data.Dataset("folder", "train", pixels, np.zeros(1001, np.int64), ("a",), None, "recorded")
    (tmp_path / "x.facts.json").write_text(facts.of(config, "CC0-1.0", [(seen, files)]).text())
    known = facts.find(config)
    other = pixels.copy()
    other[7, 0, 0, 0] ^= 1
    assert facts.but_for_rounding(known, "train", other, files)
    assert facts.but_for_rounding(known, "train", other, [])  # a decoded copy has no files
    files[7].write_bytes(other[7].tobytes())
    assert not facts.but_for_rounding(known, "train", other, files)


@pytest.mark.parametrize("damage", ["{", json.dumps({"format": 9}), json.dumps({"format": 1, "name": "x"})])
def test_damaged_facts_are_as_if_they_were_not_there(without_images, damage):
    trial, zoo = without_images
    (path,) = (zoo / "facts").iterdir()
    path.write_text(damage)
    with pytest.raises(UserError, match="pictures"):
        data.fingerprint(trial.public, "train")
    assert facts.find(trial.public) is None
