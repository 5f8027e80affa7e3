"""The most memory that a piece of work held."""

import sys
from pathlib import Path

import pytest
import torch

from wavedp.peak_memory import peak_memory

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason=f"{sys.platform} has no such count")


def held(mib: int) -> None:
    block = bytearray(mib << 20)
    block[::4096] = b"\1" * len(block[::4096])  # a page counts once it is written


@linux
def test_what_is_held_meanwhile_counts_although_it_is_let_go():
    with peak_memory("cpu") as idle:
        pass
    with peak_memory("cpu") as found:
        held(200)
    assert 190 <= found["host"] - idle["host"] <= 260
    assert found.keys() == {"host"}


@linux
def test_earlier_work_of_the_process_does_not_count():
    with peak_memory("cpu") as before:
        held(300)
    with peak_memory("cpu") as after:
        held(20)
    assert after["host"] < before["host"] - 200


def test_where_no_new_count_can_begin_none_is_given(monkeypatch):
    def refuse(self, text, encoding):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    with peak_memory("cpu") as found:
        pass
    assert found == {}


def test_a_process_that_has_not_begun_cuda_has_held_nothing_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with peak_memory("cuda") as found:
        pass
    assert found["gpu"] == 0
