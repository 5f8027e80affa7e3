"""The store: an artifact is published completely or not at all and never rewritten, and corruption is noticed."""

import multiprocessing
import time
from pathlib import Path

import fsspec
import pytest
import torch

from wavedp import store as store_module
from wavedp.store import Draft, Store

KEY = "ab" * 32


def draft(value=1.0):
    made = Draft()
    made.tensors("weights", {"w": torch.full((3,), value)})
    made.json("note", {"value": value})
    return made


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    url = str(tmp_path / "store") if request.param == "local" else "memory://store"
    yield Store(url)
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


def test_conformance(store):
    assert store.open("fit", KEY) is None
    assert not store.has("fit", KEY)
    store.publish("fit", KEY, draft(1.0))
    assert store.has("fit", KEY)
    artifact = store.open("fit", KEY)
    assert torch.equal(artifact.tensors("weights")["w"], torch.ones(3))
    assert artifact.json("note") == {"value": 1.0}
    kept = store.publish("fit", KEY, draft(2.0))  # the first one wins
    assert kept.json("note") == {"value": 1.0}
    assert store.open("fit", KEY).json("note") == {"value": 1.0}


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_corrupted_artifact_is_set_aside_and_can_be_made_again(store, damage):
    store.publish("fit", KEY, draft(1.0))
    path = f"{store.path}/fit/{KEY}/weights.safetensors"
    content = store.fs.cat_file(path)
    if damage == "flip":
        store.fs.pipe_file(path, content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        store.fs.pipe_file(path, content[:-1])
    elif damage == "remove":
        store.fs.rm(path)
    else:
        store.fs.pipe_file(f"{store.path}/fit/{KEY}/manifest.json", b"{broken")
    assert store.open("fit", KEY) is None
    assert not store.has("fit", KEY)
    store.publish("fit", KEY, draft(1.0))
    assert store.open("fit", KEY) is not None


def test_a_crash_while_publishing_leaves_nothing_visible(tmp_path, monkeypatch):
    store = Store(str(tmp_path))

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module.os, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        store.publish("fit", KEY, draft())
    monkeypatch.undo()
    assert store.open("fit", KEY) is None
    assert list((tmp_path / "fit").iterdir()) == []
    store.publish("fit", KEY, draft())
    assert store.open("fit", KEY) is not None


def test_a_folder_without_manifest_does_not_count(tmp_path):
    store = Store(str(tmp_path))
    folder = tmp_path / "fit" / KEY
    folder.mkdir(parents=True)
    (folder / "note.json").write_text("{}")
    assert store.open("fit", KEY) is None
    store.publish("fit", KEY, draft())
    assert store.open("fit", KEY) is not None


def test_of_two_that_publish_at_once_the_first_wins(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    write = store_module.write_synced

    def overtaken(path, data):
        monkeypatch.undo()
        Store(str(tmp_path)).publish("fit", KEY, draft(2.0))
        write(path, data)

    monkeypatch.setattr(store_module, "write_synced", overtaken)
    assert store.publish("fit", KEY, draft(1.0)).json("note") == {"value": 2.0}
    assert store.open("fit", KEY).json("note") == {"value": 2.0}
    assert [path.name for path in (tmp_path / "fit").iterdir()] == [KEY]


def _hold(root, seconds, order):
    with Store(root).lock("fit", KEY):
        order.append(("in", seconds))
        time.sleep(seconds)
        order.append(("out", seconds))


def test_the_lock_excludes_other_processes_and_dies_with_them(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        order = manager.list()
        first = context.Process(target=_hold, args=(str(tmp_path), 30, order))
        first.start()
        while not order:
            time.sleep(0.01)
        second = context.Process(target=_hold, args=(str(tmp_path), 0, order))
        second.start()
        time.sleep(0.3)
        assert list(order) == [("in", 30)]  # the second waits
        first.kill()
        second.join(10)
        assert list(order) == [("in", 30), ("in", 0), ("out", 0)]


def test_relative_roots_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Store("here").path == str(tmp_path / "here")
