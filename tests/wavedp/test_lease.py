"""The lease of an object store: one holder at a time, whoever dies, stops or is cut off."""

import contextlib
import json
import os
import secrets
import threading
import time

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from wavedp.store import Store, lease

KEY = "ab" * 32
FOLDER = "work/leases/fit"
LEASE = 1.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", LEASE)
    monkeypatch.setattr(lease, "RENEW_SECONDS", LEASE / 5)
    monkeypatch.setattr(lease, "POLL_SECONDS", LEASE / 20)


@pytest.fixture
def fs(tmp_path):
    """A file system that says nothing about who else uses it. Replacing a file is no single step here, as on SFTP."""
    return DirFileSystem(str(tmp_path), LocalFileSystem(auto_mkdir=True))


def held(fs, token=None):
    return lease.held(fs, FOLDER, token or secrets.token_hex(16))


class Holder:
    """A thread that holds the lease until `leave`."""

    def __init__(self, fs, token=None):
        self.entered, self.left = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._hold, args=(fs, token), daemon=True)
        self.thread.start()

    def _hold(self, fs, token):
        with held(fs, token):
            self.entered.set()
            self.left.wait(30)

    def leave(self):
        self.left.set()
        self.thread.join(10)


def test_of_many_that_ask_at_once_one_holds_it_at_a_time(fs):
    inside, most, served = [], [], []

    def ask(name):
        with held(fs):
            inside.append(name)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(name)
        served.append(name)

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(served) == list(range(6))
    assert most == [1] * 6
    assert fs.ls(FOLDER, detail=False) == []


def test_of_two_that_both_see_a_free_lease_neither_takes_it_before_the_other_steps_back(fs, monkeypatch):
    """The second writes its object between the first's look and the first's own object."""
    write, rival = fs.pipe_file, f"{FOLDER}/{'b' * 32}"

    def overtaken(path, content):
        if not path.endswith("b" * 32) and not fs.exists(rival):
            write(rival, b"{}")
        write(path, content)

    monkeypatch.setattr(fs, "pipe_file", overtaken)
    first = Holder(fs, "a" * 32)
    assert not first.entered.wait(LEASE / 2)
    assert fs.exists(rival)
    assert not fs.exists(f"{FOLDER}/{'a' * 32}")
    monkeypatch.setattr(fs, "pipe_file", write)
    fs.rm_file(rival)
    assert first.entered.wait(10)
    first.leave()


def test_a_holder_that_works_longer_than_the_lease_keeps_it_and_is_named(fs, caplog):
    first = Holder(fs)
    assert first.entered.wait(10)
    second = Holder(fs)
    assert not second.entered.wait(3 * LEASE)
    first.leave()
    assert second.entered.wait(10)
    second.leave()
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"is in use by process {os.getpid()} on " in said
    assert "since 20" in said


def test_a_dead_holder_is_relieved_after_the_lease_and_not_sooner(fs, caplog):
    fs.pipe_file(f"{FOLDER}/{'d' * 32}", json.dumps({"host": "gone", "pid": 7, "since": "then", "beat": 3}).encode())
    begun = time.monotonic()
    with held(fs):
        assert LEASE <= time.monotonic() - begun < 5 * LEASE
        assert len(fs.ls(FOLDER, detail=False)) == 1
    assert "taking over from process 7 on gone since then, by its clock, silent for 1 s" in caplog.text


def test_one_that_was_stopped_says_that_it_was_relieved_and_leaves_the_new_holder_alone(fs, monkeypatch, caplog):
    read, stopped = fs.cat_file, threading.Event()

    def of_one_that_sleeps(path):
        if threading.current_thread().name == "sleeper":
            stopped.wait(30)
        return read(path)

    monkeypatch.setattr(fs, "cat_file", of_one_that_sleeps)
    original = threading.Thread
    with monkeypatch.context() as patch:
        patch.setattr(lease.threading, "Thread", lambda **options: original(**options, name="sleeper"))
        context = held(fs)
        context.__enter__()
    second = Holder(fs)
    assert second.entered.wait(10)
    stopped.set()
    deadline = time.monotonic() + 10
    while "was taken over by another machine" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "both do the same work now, and what is published first is kept" in caplog.text
    context.__exit__(None, None, None)
    assert len(fs.ls(FOLDER, detail=False)) == 1
    second.leave()


def test_one_that_was_stopped_while_it_asked_asks_again(fs, monkeypatch):
    """Its object was deleted meanwhile, by somebody who waited for it, took over and has ended."""
    write, written = fs.pipe_file, []

    def sleepy(path, content):
        write(path, content)
        written.append(path)
        if len(written) == 1:
            fs.rm_file(path)

    monkeypatch.setattr(fs, "pipe_file", sleepy)
    with held(fs, "a" * 32):
        assert fs.ls(FOLDER, detail=False) == [f"{FOLDER}/{'a' * 32}"]


def test_a_store_that_does_not_answer_for_a_while_costs_nobody_the_lease(fs, monkeypatch, caplog):
    write = fs.pipe_file
    first = Holder(fs)
    assert first.entered.wait(10)
    monkeypatch.setattr(fs, "pipe_file", lambda *_: 1 / 0)
    time.sleep(LEASE / 2)
    monkeypatch.setattr(fs, "pipe_file", write)
    assert "could not be renewed (ZeroDivisionError" in caplog.text
    second = Holder(fs)
    assert not second.entered.wait(2 * LEASE)
    first.leave()
    assert second.entered.wait(10)
    second.leave()


def test_where_objects_may_not_be_deleted_the_next_does_not_wait(fs, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "no")

    monkeypatch.setattr(fs, "rm_file", forbidden)
    for _ in range(3):
        begun = time.monotonic()
        with held(fs):
            assert time.monotonic() - begun < LEASE / 2
    fs.pipe_file(f"{FOLDER}/{'d' * 32}", b"{}")
    with held(fs):
        assert time.monotonic() - begun < 5 * LEASE


def test_a_stage_that_fails_gives_the_lease_back(fs):
    with contextlib.suppress(ZeroDivisionError), held(fs):
        raise ZeroDivisionError
    assert fs.ls(FOLDER, detail=False) == []


def test_on_the_same_machine_nobody_waits_for_a_process_that_was_killed(tmp_path, monkeypatch):
    """The kernel has freed its lock, so its lease is over."""
    store = Store("memory://lease")
    monkeypatch.setattr(lease.time, "sleep", lambda _: pytest.fail("it waits"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        killed = []
        for _ in range(3):
            with store.lock("fit", KEY):
                killed += store.names(f"work/leases/fit-{KEY}")
            store.fs.pipe_file(f"{store.path}/work/leases/fit-{KEY}/{killed[-1]}", b"{}")  # as if it had been killed
        assert len(set(killed)) == 3
    finally:
        fsspec.filesystem("memory").store.clear()
