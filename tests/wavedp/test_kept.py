"""Checkpoints that an object store keeps: another machine goes on with them, and nobody else reads them."""

import stat
import tempfile
import time

import fsspec
import pytest

from wavedp.errors import UserError
from wavedp.store import Draft, Store, kept

pytest.importorskip("cryptography")
STAGE, KEY, SECRET, OTHER = "private_fit", "ab" * 32, "11" * 32, "22" * 32


@pytest.fixture(autouse=True)
def machines(tmp_path, monkeypatch):
    """machine(name) moves the test to another machine: its temporary folder is another one."""
    monkeypatch.setattr(kept, "EVERY", 0.02)

    def machine(name):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))

    machine("first")
    yield machine
    fsspec.filesystem("memory").store.clear()


def store(secret=SECRET):
    return Store("memory://kept", (), secret)


def objects():
    return {
        path: fsspec.filesystem("memory").cat_file(path) for path in fsspec.filesystem("memory").find("/kept/work/kept")
    }


def wait_for(content):
    deadline = time.monotonic() + 10
    while not objects() and time.monotonic() < deadline:
        time.sleep(0.01)
    (found,) = objects().values()
    assert content not in found, "what is kept is encrypted"


def die_in_the_middle(content=b"the noise", secret=SECRET):
    """A stage whose machine is gone before its block ends: only what the thread sent is left."""
    block = store(secret).working(STAGE, KEY)
    (block.__enter__() / "checkpoint.safetensors").write_bytes(content)
    wait_for(content)
    return block


def test_another_machine_goes_on_with_what_was_kept(machines):
    die_in_the_middle()
    machines("second")
    with store().working(STAGE, KEY) as folder:
        file = folder / "checkpoint.safetensors"
        assert file.read_bytes() == b"the noise"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.write_bytes(b"more of it")
    machines("third")
    with store().working(STAGE, KEY) as folder:
        assert (folder / "checkpoint.safetensors").read_bytes() == b"more of it"


def test_once_it_is_published_nothing_is_kept(machines):
    die_in_the_middle()
    store().discard_work(STAGE, KEY)
    assert objects() == {}


def test_another_secret_opens_nothing(machines, caplog):
    die_in_the_middle()
    machines("second")
    with store(OTHER).working(STAGE, KEY) as folder:
        assert list(folder.iterdir()) == []
    assert "the stage begins at its start" in caplog.text


def test_a_copy_of_another_stage_passes_for_nothing(machines):
    die_in_the_middle()
    ((path, content),) = objects().items()
    fsspec.filesystem("memory").pipe_file(path.replace(KEY, "cd" * 32), content)
    machines("second")
    with store().working(STAGE, "cd" * 32) as folder:
        assert list(folder.iterdir()) == []


def test_a_copy_that_was_cut_off_is_left_alone(machines):
    die_in_the_middle()
    ((path, content),) = objects().items()
    machines("second")
    for cut in (content[:-1], content[:10], b""):
        fsspec.filesystem("memory").pipe_file(path, cut)
        with store().working(STAGE, KEY) as folder:
            assert list(folder.iterdir()) == []


def test_the_fit_goes_on_while_the_store_is_away(machines, monkeypatch, caplog):
    opened = store()
    with opened.working(STAGE, KEY) as folder, monkeypatch.context() as patch:
        patch.setattr(opened.raw, "pipe_file", lambda *_: 1 / 0)
        (folder / "checkpoint.safetensors").write_bytes(b"x")
        time.sleep(0.1)
        assert objects() == {}
    assert "could not be kept in the store (ZeroDivisionError" in caplog.text
    assert len(objects()) == 1  # sent when it was back


def test_without_a_secret_nothing_leaves_the_machine(machines):
    with store(None).working(STAGE, KEY) as folder:
        (folder / "checkpoint.safetensors").write_bytes(b"x")
        time.sleep(0.1)
    assert objects() == {}


def test_publishing_needs_no_copy(machines):
    draft = Draft()
    draft.json("note", 1)
    store().publish(STAGE, KEY, draft)
    store().discard_work(STAGE, KEY)


def test_the_secret_is_the_environments_or_one_of_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(kept.VARIABLE, raising=False)
    assert kept.secret_for(str(tmp_path / "store")) is None
    first = kept.secret_for("s3://bucket/a")
    assert len(bytes.fromhex(first)) == 32
    assert kept.secret_for("s3://bucket/a/") == first != kept.secret_for("s3://bucket/b")
    assert all(not path.stat().st_mode & 0o077 for path in (tmp_path / "home/.wavedp/secrets").rglob("*"))
    monkeypatch.setenv(kept.VARIABLE, SECRET)
    assert kept.secret_for("s3://bucket/a") == SECRET
    monkeypatch.setenv(kept.VARIABLE, "password")
    with pytest.raises(UserError, match="WAVEDP_CHECKPOINT_SECRET is not 64 hexadecimal digits"):
        kept.secret_for("s3://bucket/a")
    monkeypatch.delenv(kept.VARIABLE)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert kept.secret_for("s3://bucket/a") is None
