"""Pull the plug at ten random moments of a private fit: it goes on, releases once, and ends where it would have."""

import dataclasses
import multiprocessing
import random
import signal
import time

import torch
from test_stages import TINY

from wavedp import chain, stages
from wavedp.store import Store

KILLS, STEPS, EVERY = 10, 60, 3

FORK = multiprocessing.get_context("forkserver")
"""Forks of a process that has torch and no thread: they start in milliseconds, where importing torch takes seconds."""


def config():
    privacy = dataclasses.replace(TINY.privacy, steps=STEPS, checkpoint_every=EVERY, ema_decay=0.5)
    return dataclasses.replace(TINY, privacy=privacy)


def fit(store, pipe):
    """What the process to be killed runs; tells every step that it has done."""
    torch.set_num_threads(1)
    stages.make("private_fit", config(), Store(store), "cpu", lambda done, steps: pipe.send(done))


def start(store):
    listening, telling = FORK.Pipe(duplex=False)
    process = FORK.Process(target=fit, args=(store, telling))
    process.start()
    telling.close()
    return process, listening


def steps_told(listening):
    while True:
        try:
            yield listening.recv()
        except EOFError:
            return


def test_ten_kills_change_nothing(tmp_path, monkeypatch):
    FORK.set_forkserver_preload(["test_sigkill"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole, _ = stages.make("private_fit", config(), Store(str(tmp_path / "whole")), "cpu")
    finally:
        torch.set_num_threads(threads)
    broken = str(tmp_path / "broken")
    stages.make("pretrain", config(), Store(broken), "cpu")
    chance = random.Random(0)
    firsts = []
    for moment in sorted(chance.sample(range(1, STEPS - 3), KILLS)):
        process, listening = start(broken)
        told = steps_told(listening)
        heard = [(next(told), time.perf_counter())]
        firsts.append(heard[0][0])
        while heard[-1][0] < moment or len(heard) < 2:
            heard.append((next(told), time.perf_counter()))
        a_step = heard[-1][1] - heard[-2][1]
        time.sleep(chance.uniform(0, a_step))  # anywhere in a step, or while its checkpoint is written
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not Store(broken).has("private_fit", chain.keys(config())["private_fit"])
    assert firsts[-1] > EVERY  # the later processes went on where others had been killed
    assert [first % EVERY for first in firsts] == [1] * KILLS
    process, listening = start(broken)
    assert list(steps_told(listening))[-1] == STEPS
    process.join()
    assert process.exitcode == 0
    resumed, made = stages.make("private_fit", config(), Store(broken), "cpu")
    assert not made
    for name, tensor in whole.tensors("weights").items():
        assert torch.equal(resumed.tensors("weights")[name], tensor), name
    (line,), (expected,) = resumed.json("ledger"), whole.json("ledger")
    assert {**line, "time": None} == {**expected, "time": None}
    assert line["release"]
