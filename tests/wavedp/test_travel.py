"""Images that travel through a store: a node without files has them bit for bit, and nobody else reads them."""

import dataclasses
import stat
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from sweeps import images
from wavedp import chain, checks, data
from wavedp.config import DataConfig, MetricsConfig, TrialConfig
from wavedp.data import from_arrays, nearest, travel
from wavedp.errors import UserError
from wavedp.fields import identity
from wavedp.store import Store

pytest.importorskip("cryptography")
SECRET, OTHER = "11" * 32, "22" * 32
STORES = {"local": "{}/store", "object": "memory://travel"}
SIZE = 8


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    """A process that has seen the images still knows their fingerprints: the test is several machines in one."""
    yield
    forget()
    fsspec.filesystem("memory").store.clear()


def forget():
    for known in (chain.fingerprint, chain.n_records, chain.has_images):
        known.cache_clear()


@pytest.fixture(params=list(STORES))
def store(request, tmp_path):
    return Store(STORES[request.param].format(tmp_path), (), SECRET)


@pytest.fixture
def leave(tmp_path, monkeypatch):
    """leave(): from here on the test runs on a node, another one each time, that has nothing of the driver's disk."""
    nodes = []

    def left():
        nodes.append(tmp_path / f"node{len(nodes)}")
        nodes[-1].mkdir()
        if (tmp_path / "driver").exists():
            (tmp_path / "driver").rename(tmp_path / "away")
        monkeypatch.setattr(tempfile, "tempdir", str(nodes[-1]))
        forget()
        return nodes[-1]

    return left


def pictures(root: Path, captions: bool = False, seed: int = 0) -> Path:
    """Class folders of random grey pictures, whose bytes no compression shortens."""
    for split, count in (("train", 24), ("test", 8)):
        for number in range(count):
            file = root / split / f"class{number % 2}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([seed, number, len(split)]).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
            Image.fromarray(pixels).save(file)
            if captions:
                file.with_suffix(".txt").write_text(f"picture {number}\nof {split}", encoding="utf-8")
    return root


def folder(tmp_path, captions=False, **changes):
    path = pictures(tmp_path / "driver" / "pictures", captions)
    values = {"path": str(path), "size": SIZE, "home": str(tmp_path / "driver" / "home"), "ship": True, **changes}
    return DataConfig(name="folder", **values)


def mixture(tmp_path):
    parts = {
        str(pictures(tmp_path / "driver" / "a", True, 2)): 12,
        str(pictures(tmp_path / "driver" / "b", seed=1)): None,
    }
    home = str(tmp_path / "driver" / "home")
    return DataConfig(name="mixture", parts=parts, size=SIZE, home=home, ship=True)


def arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE), np.uint8)
    made = from_arrays(pixels, np.arange(40) % 4, home=tmp_path / "driver" / "home")
    return dataclasses.replace(made, ship=True)


SETS = {
    "a folder": folder,
    "captions": lambda path: folder(path, captions=True),
    "a limit": lambda path: folder(path, limit=5),
    "merged": lambda path: folder(path, duplicates="merge"),
    "no cache": lambda path: folder(path, cache="off"),
    "a mixture": mixture,
    "arrays": arrays,
}


def sent(config, store, sensitive=True, say=lambda text: None):
    return {travel.asked(config): travel.send(config, store, sensitive, say)}


def records(config):
    """Everything that a trial sees of a dataset."""
    found = [data.class_names(config), data.n_classes(config), data.shape(config), data.has_captions(config)]
    for split in data.splits(config):
        loaded = data.load(config, split)
        found += [split, data.fingerprint(config, split), data.n_records(config, split), data.captions(config, split)]
        found += [loaded.images.tobytes(), loaded.labels.tobytes(), loaded.captions, loaded.classes, loaded.fingerprint]
    return found


@pytest.mark.parametrize("name", SETS)
def test_a_node_without_files_has_every_record_bit_for_bit(name, store, tmp_path, leave):
    config = SETS[name](tmp_path)
    known, before = sent(config, store), records(config)
    leave()
    assert not data.has_images(config)
    moved = travel.here(config, store, known)
    assert records(moved) == before
    assert identity(moved) == identity(config)
    assert dataclasses.replace(moved, home=config.home) == config


def trial(config):
    public = DataConfig("procedural", size=SIZE, n_records=64)
    metrics = MetricsConfig(downstream_steps=0, fid_samples=8, reference_samples=8, floor=False)
    return TrialConfig(data=config, public=public, metrics=metrics)


def test_the_keys_of_a_trial_stay_and_its_stages_can_be_made(store, tmp_path, leave):
    mine = trial(folder(tmp_path))
    before = chain.keys(mine)
    kept = dataclasses.replace(mine.data, ship=False)
    assert identity(kept) == identity(mine.data)
    assert chain.keys(dataclasses.replace(mine, data=kept)) == before
    known = images.send([mine, mine], store)
    leave()
    with pytest.raises(UserError, match="is not a folder"):
        checks.check_images(mine, store)
    there = images.at_hand(mine, store, known)
    checks.check_images(there, store)
    assert chain.keys(there) == before


def test_public_images_that_are_chosen_by_the_names_of_private_classes_travel_too(store, tmp_path, leave, monkeypatch):
    monkeypatch.setattr(nearest, "FEWEST", 1)
    config = folder(tmp_path)
    public = dataclasses.replace(mixture(tmp_path), name="chosen", per_name=2)
    mine = dataclasses.replace(trial(config), public=public)
    before = chain.keys(mine)
    known = images.send([mine], store)
    assert len(known) == 2
    leave()
    assert chain.keys(images.at_hand(mine, store, known)) == before


def test_by_default_nothing_is_sent_and_a_node_is_told_what_would(store, tmp_path, leave):
    mine = trial(folder(tmp_path, ship=False))
    assert images.send([mine], store) == {}
    assert store.names("work") == []
    kept = images.kept_home(mine)
    assert images.hint(mine, kept) == ""
    leave()
    assert images.hint(mine, kept) == "Or let the driver send them through the store: data.ship=true."
    assert images.at_hand(mine, store, {}) is mine


def test_images_that_are_computed_and_those_that_no_stage_reads_are_not_sent(store, tmp_path):
    computed = DataConfig("procedural", size=SIZE, n_records=64, ship=True)
    mine = TrialConfig(data=computed, public=folder(tmp_path), generator="dp_merf", upscaler="bicubic")
    assert images.send([mine], store) == {}


@pytest.mark.parametrize("name", ["folder", "lsun"])
def test_a_folder_that_is_empty_there_as_of_a_disk_that_is_not_mounted_is_no_images(name, store, tmp_path, leave):
    config = dataclasses.replace(
        folder(tmp_path), name=name, path=str(tmp_path / "driver" / "pictures" / "train" / "class0")
    )
    known, before = sent(config, store), records(config)
    leave()
    Path(config.path).mkdir(parents=True)
    assert not data.has_images(config)
    assert records(travel.here(config, store, known)) == before


def test_a_machine_that_has_the_files_fetches_nothing(store, tmp_path, leave):
    config = folder(tmp_path)
    known = sent(config, store)
    assert travel.here(config, store, known) is config


def contents(store):
    """{path: bytes} of everything below the folder of images."""
    place = f"{store.path}/{travel.FOLDER}"
    return {path: store.fs.cat_file(path) for path in store.raw.find(place)}


def test_what_was_sent_is_found_and_not_sent_again(store, tmp_path):
    config, said = folder(tmp_path), []
    first = sent(config, store, say=said.append)
    before = contents(store)
    assert sent(dataclasses.replace(config, duplicates="merge"), store, say=said.append) == first
    assert contents(store) == before
    (sentence,) = said
    assert sentence.startswith(f"Sends 32 images of folder, 0 MB decoded, to {store.root}/work/images, ")


def test_pieces_are_put_together_in_order(store, tmp_path, leave, monkeypatch):
    monkeypatch.setattr(travel, "PIECE", 500)
    config = folder(tmp_path)
    known, before = sent(config, store), records(config)
    assert next(iter(known.values())).pieces > 3
    assert max(map(len, contents(store).values())) < 1000
    leave()
    assert records(travel.here(config, store, known)) == before


def test_in_an_object_store_nothing_of_sensitive_images_lies_open(tmp_path, leave):
    config, store = folder(tmp_path), Store(STORES["object"], (), SECRET)
    image = data.load(config, "train").images[3].tobytes()
    fingerprint = data.fingerprint(config, "train").encode()
    open_there = Store("memory://open", (), SECRET)
    sent(config, open_there, sensitive=False)
    marks = (b"PK\x03\x04", b"images_train", fingerprint, image[:16])
    assert [any(mark in found for found in contents(open_there).values()) for mark in marks[:3]] == [True] * 3
    known = sent(config, store)
    assert contents(store)
    for path, content in contents(store).items():
        assert not any(mark in content or mark in path.encode() for mark in marks)
    leave()
    with pytest.raises(UserError, match="InvalidTag"):
        travel.here(config, Store(STORES["object"], (), OTHER), known)


def test_without_a_secret_sensitive_images_are_refused_for_an_object_store(tmp_path):
    config, store = folder(tmp_path), Store(STORES["object"], (), None)
    with pytest.raises(UserError) as refused:
        images.send([trial(config)], store)
    assert str(refused.value) == (
        "data.ship=true sends sensitive images encrypted, and no secret is known for memory://travel: set "
        "WAVEDP_CHECKPOINT_SECRET (`openssl rand -hex 32` prints one), or give every node the images on a disk."
    )
    assert contents(store) == {}
    assert sent(config, store, sensitive=False)


def test_another_secret_has_a_copy_of_its_own(tmp_path):
    config = folder(tmp_path)
    folders = [sent(config, Store(STORES["object"], (), secret))[config].folder for secret in (SECRET, OTHER)]
    assert len({*folders}) == 2


def modes(root):
    return {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_file()}


def test_only_their_owner_can_read_the_images_in_a_local_store_and_on_the_node(tmp_path, leave):
    config, store = folder(tmp_path), Store(STORES["local"].format(tmp_path), (), None)
    known = sent(config, store)
    (there,) = Path(store.path, travel.FOLDER).iterdir()
    assert stat.S_IMODE(there.stat().st_mode) == 0o700
    assert modes(there) == {0o600}
    leave()
    home = Path(travel.here(config, store, known).home)
    assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / travel.FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("harm", ["changed", "cut off", "swapped", "gone"])
def test_damage_in_the_store_is_noticed_on_the_node(harm, store, tmp_path, leave, monkeypatch):
    monkeypatch.setattr(travel, "PIECE", 500)
    config = folder(tmp_path)
    known = sent(config, store)
    (about,) = known.values()
    first, second = (f"{store.path}/{about.folder}/{about.attempt}-{number}" for number in (0, 1))
    content, other = (store.fs.cat_file(path) for path in (first, second))
    changed = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    new = {"changed": changed, "cut off": content[:-1], "swapped": other}
    if harm in new:
        store.raw.pipe_file(first, new[harm])
    else:
        store.raw.rm_file(first)
    node = leave()
    with pytest.raises(UserError, match=r"can't be used .*: remove that folder, and start the same command again"):
        travel.here(config, store, known)
    assert not list(node.rglob("*.npz")), "nothing is left that could stand in"


def test_other_images_than_those_that_were_sent_are_refused(store, tmp_path, leave):
    """Whoever could write a whole file into the store can't pass it for the study's."""
    config = folder(tmp_path)
    known = sent(config, store)
    (about,) = known.values()
    wrong = {**known, travel.asked(config): dataclasses.replace(about, fingerprints={"train": "0" * 64})}
    leave()
    with pytest.raises(UserError, match=r"the train images of folder in .* are not those that were sent"):
        travel.here(config, store, wrong)


def test_a_damaged_file_of_the_node_is_fetched_again(store, tmp_path, leave):
    config = folder(tmp_path)
    known, before = sent(config, store), records(config)
    leave()
    file = Path(travel.here(config, store, known).home) / travel.FILE
    content = file.read_bytes()
    file.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    assert records(travel.here(config, store, known)) == before
    assert file.read_bytes() == content


def test_a_manifest_that_is_damaged_means_sending_again(store, tmp_path, leave):
    config = folder(tmp_path)
    (about,) = sent(config, store).values()
    store.put(f"{about.folder}/{travel.MANIFEST}", b"{}", private=True)
    known, before = sent(config, store), records(config)
    leave()
    assert records(travel.here(config, store, known)) == before


def test_a_node_whose_disk_is_too_small_says_so(store, tmp_path, leave, monkeypatch):
    config = folder(tmp_path)
    known = sent(config, store)
    leave()
    monkeypatch.setattr(travel.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="set TMPDIR to a folder on a larger disk"):
        travel.here(config, store, known)
