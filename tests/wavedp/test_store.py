"""The store: an artifact is published completely or not at all and never rewritten, and corruption is noticed."""

import json
import multiprocessing
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

import fsspec
import pytest
import torch

from wavedp import store as store_module
from wavedp.errors import UserError
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


def path_of(store, name):
    (path,) = (path for path in store.fs.find(f"{store.path}/fit/{KEY}") if path.endswith(f"/{name}"))
    return path


DAMAGES = ["flip", "truncate", "remove", "manifest"]


def damage_it(store, damage):
    path = path_of(store, "weights.safetensors")
    content = store.fs.cat_file(path)
    if damage == "flip":
        store.fs.pipe_file(path, content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        store.fs.pipe_file(path, content[:-1])
    elif damage == "remove":
        store.fs.rm(path)
    else:
        store.fs.pipe_file(path_of(store, "manifest.json"), b"{broken")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_set_aside_with_a_warning_and_can_be_made_again(store, damage):
    store.publish("fit", KEY, draft(1.0))
    damage_it(store, damage)
    with pytest.warns(UserWarning, match=r"fit/abab.* is damaged .*: it is set aside, to be made again"):
        assert store.open("fit", KEY) is None
    assert not store.has("fit", KEY)
    store.publish("fit", KEY, draft(1.0))
    assert store.open("fit", KEY) is not None


@pytest.mark.filterwarnings("ignore:.* is damaged")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_object_that_may_not_be_deleted_is_replaced(damage, memory, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "no")

    memory.publish("fit", KEY, draft(1.0))
    damage_it(memory, damage)
    monkeypatch.setattr(memory.fs, "rm_file", forbidden)
    monkeypatch.setattr(memory.fs, "mv", forbidden)
    assert memory.open("fit", KEY) is None
    assert memory.publish("fit", KEY, draft(2.0)).json("note") == {"value": 2.0}
    assert memory.open("fit", KEY).json("note") == {"value": 2.0}


@pytest.fixture
def memory():
    yield Store("memory://store")
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("exclusive", [True, False])
def test_two_machines_that_publish_at_once_leave_one_whole_artifact(exclusive, memory, monkeypatch):
    """The second begins when the first has uploaded its files and not yet its manifest."""
    write, done = memory.fs.pipe_file, []

    def overtaken(path, data, mode="overwrite"):
        if mode == "create" and not exclusive:
            raise ValueError("no such mode here")
        if path.endswith("manifest.json") and not done:
            done.append(path)
            Store("memory://store").publish("fit", KEY, draft(2.0))
        write(path, data, mode=mode)

    monkeypatch.setattr(memory.fs, "pipe_file", overtaken)
    kept = memory.publish("fit", KEY, draft(1.0))
    found = Store("memory://store").open("fit", KEY)
    assert found == kept
    assert torch.equal(found.tensors("weights")["w"], torch.full((3,), found.json("note")["value"]))
    if exclusive:
        assert found.json("note") == {"value": 2.0}
        assert len(memory.fs.find(f"{memory.path}/fit/{KEY}")) == 3  # nothing of the other release is left


def test_an_artifact_of_the_layout_without_attempts_is_read(memory):
    made = draft(1.0)
    for name, data in made.files.items():
        memory.fs.pipe_file(f"{memory.path}/fit/{KEY}/{name}", data)
    manifest = {name: store_module.sha256(data) for name, data in made.files.items()}
    memory.fs.pipe_file(f"{memory.path}/fit/{KEY}/manifest.json", json.dumps(manifest).encode())
    assert memory.open("fit", KEY).files == made.files


def test_one_file_is_read_without_the_others(store):
    assert store.json("fit", KEY, "note") is None
    store.publish("fit", KEY, draft(1.0))
    store.fs.pipe_file(path_of(store, "weights.safetensors"), b"damaged")
    assert store.json("fit", KEY, "note") == {"value": 1.0}
    store.fs.pipe_file(path_of(store, "note.json"), b"{}")
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.json("fit", KEY, "note") is None


def test_small_objects_are_replaced_whole_and_listed(store):
    assert store.names("studies/s") == []
    store.put("studies/s/a.json", b"1")
    store.put("studies/s/b.json", b"2")
    store.put("studies/s/a.json", b"3")
    assert store.names("studies") == ["s"]
    assert {name: store.get(f"studies/s/{name}") for name in store.names("studies/s")} == {
        "a.json": b"3", "b.json": b"2"
    }  # fmt: skip


def test_only_this_user_enters_the_folder_of_checkpoints(store, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    os.umask(0o022)
    folder = store.work_folder("fit", KEY)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)  # made by an earlier version
    assert stat.S_IMODE(store.work_folder("fit", KEY).stat().st_mode) == 0o700
    (folder / "checkpoint").touch()
    store.discard_work("fit", KEY)
    assert not folder.exists()


@pytest.mark.parametrize("trap", ["link", "owner"])
def test_a_temporary_folder_that_somebody_else_made_is_refused(trap, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (expected,) = {Store("memory://store").work_folder("fit", KEY).parents[1]}
    shutil.rmtree(expected)
    if trap == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        expected.symlink_to(tmp_path / "theirs")
    else:
        expected.mkdir(mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: int(expected.name.split("-")[1]))
        os.chown(expected, 12345, -1)
    with pytest.raises(UserError, match=f"{expected} is not this user's own folder"):
        Store("memory://store").work_folder("fit", KEY)


@pytest.mark.parametrize("kind", ["file", "under a file", "full"])
def test_a_store_that_cannot_be_written_is_said_in_one_sentence(kind, tmp_path):
    (tmp_path / "file").touch()
    path = {"file": tmp_path / "file", "under a file": tmp_path / "file" / "store", "full": Path("/proc/self/store")}
    with pytest.raises(UserError, match=rf"store={path[kind]} cannot be written \(.+\): .*choose another folder"):
        Store(str(path[kind])).require_writable()


def test_an_object_store_that_cannot_be_written_is_said_in_one_sentence(memory, monkeypatch):
    memory.require_writable()
    assert memory.fs.find("/") == []
    monkeypatch.setattr(memory.raw, "pipe_file", lambda *_: 1 / 0)
    with pytest.raises(UserError, match=r"store=memory://store cannot be written \(ZeroDivisionError: .*"):
        memory.require_writable()


def test_a_url_that_nothing_opens_is_refused():
    with pytest.raises(UserError, match=r"store=nosuch://x cannot be opened"):
        Store("nosuch://x")


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
