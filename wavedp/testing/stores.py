"""Tests that every store must pass. For one of your own:

    class TestOurBucket(StoreSuite):
        def make_store(self, tmp_path):
            return Store(f"s3://bucket/{tmp_path.name}")

pytest then runs every test of the suite on it.
"""

from __future__ import annotations

import json
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

from wavedp import store as store_module
from wavedp.store import MANIFEST, Draft, Store, lease

STAGE, KEY, OTHER_KEY = "private_fit", "ab" * 32, "cd" * 32


class StoreSuite:
    """Subclass it, and give `make_store(tmp_path)`: an empty store. Two calls with one `tmp_path` give the same store,
    as two processes would open it."""

    def make_store(self, tmp_path: Path) -> Store:
        raise NotImplementedError("give make_store(tmp_path) in your subclass")

    def test_what_was_published_is_read_back(self, tmp_path: Path) -> None:
        published = self.make_store(tmp_path).publish(STAGE, KEY, _draft(1))
        found = self.make_store(tmp_path).open(STAGE, KEY)
        assert found == published, "open() gives what publish() gave"
        assert found is not None
        assert found.key == KEY
        assert found.json("note") == {"value": 1}
        assert found.files["weights.bin"] == bytes(1000)

    def test_has_and_open_agree(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        for _ in range(2):
            for stage, key in ((STAGE, KEY), (STAGE, OTHER_KEY), ("upscale", KEY)):
                assert store.has(stage, key) == (store.open(stage, key) is not None)
            store.publish(STAGE, KEY, _draft(1))
        assert store.has(STAGE, KEY)
        assert not store.has(STAGE, OTHER_KEY)
        assert not store.has("upscale", KEY), "the stage is part of an artifact's name"
        assert store.which(STAGE, [OTHER_KEY, KEY]) == {KEY}
        assert store.which("upscale", [KEY]) == set()

    def test_many_keys_are_found_as_one_by_one(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        keys = [f"{number:02}" * 32 for number in range(12)]
        assert store.which(STAGE, keys) == set()
        for key in keys[::3]:
            store.publish(STAGE, key, _draft(1))
        assert store.which(STAGE, keys) == set(keys[::3])
        assert store.which(STAGE, keys[1:]) == set(keys[3::3])

    def test_the_first_artifact_wins(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        store.publish(STAGE, KEY, _draft(1))
        kept = store.publish(STAGE, KEY, _draft(2))
        assert kept.json("note") == {"value": 1}, "publish() returns the artifact that stays"
        found = self.make_store(tmp_path).open(STAGE, KEY)
        assert found is not None
        assert found.json("note") == {"value": 1}, "an artifact is never rewritten"

    def test_publishing_that_is_interrupted_leaves_nothing(self, tmp_path: Path, monkeypatch: Any) -> None:
        store = self.make_store(tmp_path)

        class Interrupted(BaseException):
            pass

        def interrupted(original: Any) -> Any:
            def write(path: Any, *arguments: Any, **options: Any) -> Any:
                if str(path).endswith(MANIFEST):  # every other file is written
                    raise Interrupted
                return original(path, *arguments, **options)

            return write

        with monkeypatch.context() as patch:
            patch.setattr(store_module, "write_synced", interrupted(store_module.write_synced))
            patch.setattr(store.fs, "pipe_file", interrupted(store.fs.pipe_file))
            try:
                store.publish(STAGE, KEY, _draft(1))
            except Interrupted:
                pass
            else:
                raise AssertionError("publish() writes the manifest last, with write_synced or pipe_file")
        assert not store.has(STAGE, KEY)
        assert store.open(STAGE, KEY) is None
        assert store.publish(STAGE, KEY, _draft(2)).json("note") == {"value": 2}, "the next one is published"

    def test_a_corrupted_artifact_is_not_served(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        for name, damage in (
            ("weights.bin", lambda content: content[:-1] + b"x"),
            ("weights.bin", lambda content: content[:-1]),
            ("note.json", lambda content: b""),
            (MANIFEST, lambda content: b"{broken"),
            (MANIFEST, lambda content: json.dumps({**json.loads(content), "absent.json": "0" * 64}).encode()),
        ):
            before = _files(store)
            store.publish(STAGE, KEY, _draft(1))
            (path,) = (found for found in _files(store) - before if found.endswith(f"/{name}"))
            store.fs.pipe_file(path, damage(store.fs.cat_file(path)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                assert self.make_store(tmp_path).open(STAGE, KEY) is None, f"{name} was damaged"
            assert not self.make_store(tmp_path).has(STAGE, KEY), "open() sets a damaged artifact aside"
        assert store.publish(STAGE, KEY, _draft(2)).json("note") == {"value": 2}, "it can be made again"

    def test_the_work_folder_is_kept(self, tmp_path: Path) -> None:
        folder = self.make_store(tmp_path).work_folder(STAGE, KEY)
        (folder / "checkpoint").write_bytes(b"state")
        again = self.make_store(tmp_path).work_folder(STAGE, KEY)
        assert (again / "checkpoint").read_bytes() == b"state"
        assert self.make_store(tmp_path).work_folder(STAGE, OTHER_KEY) != folder
        (folder / "checkpoint").unlink()

    def test_of_two_that_publish_at_once_one_stays_whole(self, tmp_path: Path, monkeypatch: Any) -> None:
        """Another process publishes when all files but the manifest of this one are written."""
        store = self.make_store(tmp_path)
        original: dict[str, Any] = {}
        overtaken: list[str] = []

        def writing(name: str) -> Any:
            def write(path: Any, *arguments: Any, **options: Any) -> Any:
                if str(path).endswith(MANIFEST) and not overtaken:
                    overtaken.append(str(path))
                    self.make_store(tmp_path).publish(STAGE, KEY, _draft(2))
                return original[name](path, *arguments, **options)

            return write

        with monkeypatch.context() as patch:
            for where, name in ((store_module, "write_synced"), (store.fs, "pipe_file")):
                original[name] = getattr(where, name)
                patch.setattr(where, name, writing(name))
            kept = store.publish(STAGE, KEY, _draft(1))
        assert overtaken, "publish() writes the manifest last, with write_synced or pipe_file"
        assert self.make_store(tmp_path).open(STAGE, KEY) == kept, "publish() returns the artifact that stays"

    def test_the_work_folder_is_closed_to_others(self, tmp_path: Path) -> None:
        folder = self.make_store(tmp_path).work_folder(STAGE, KEY)
        assert not folder.stat().st_mode & 0o077, "checkpoints may hold the noise of a private fit"
        self.make_store(tmp_path).discard_work(STAGE, KEY)
        assert not folder.exists()

    def test_the_lock_excludes(self, tmp_path: Path) -> None:
        entered = threading.Event()

        def enter() -> None:
            with self.make_store(tmp_path).lock(STAGE, KEY):
                entered.set()

        second = threading.Thread(target=enter, daemon=True)
        store = self.make_store(tmp_path)
        with store.lock(STAGE, KEY):
            with store.lock(STAGE, OTHER_KEY):  # another key is free
                second.start()
            assert not entered.wait(0.3), "a second holder entered"
        assert entered.wait(10), "the lock was not freed"
        second.join(10)

    def test_the_lock_reaches_other_machines(self, tmp_path: Path, monkeypatch: Any) -> None:
        """Each with a temporary folder of its own, so that the kernel's lock of one says nothing to the other."""
        entered = threading.Event()
        monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
        for machine in ("first", "second"):
            (tmp_path / machine).mkdir()

        def enter() -> None:
            with self.make_store(tmp_path).lock(STAGE, KEY):
                entered.set()

        second = threading.Thread(target=enter, daemon=True)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "first"))
        with self.make_store(tmp_path).lock(STAGE, KEY):
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "second"))
            second.start()
            assert not entered.wait(0.5), "another machine entered"
        assert entered.wait(10), "the lock was not freed"
        second.join(10)


def _files(store: Store) -> set[str]:
    return set(store.fs.find(f"{store.path}/{STAGE}/{KEY}"))


def _draft(value: int) -> Draft:
    draft = Draft()
    draft.files["weights.bin"] = bytes(1000)
    draft.json("note", {"value": value})
    return draft
