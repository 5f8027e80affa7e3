"""The page of a running study: what it answers, and that it follows the records."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from study_folder import build

from analysis.report import main
from analysis.serve import STALE, Watched, server_of

Get = Callable[[str], bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build(tmp_path / "eps_grid", epsilons=(1.0,), seeds=2)


@pytest.fixture
def get(folder: Path) -> Iterator[Get]:
    with server_of(Watched([folder]), 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.server_address[:2]
        yield lambda path: urlopen(f"http://{host}:{port}{path}", timeout=30).read()
        server.shutdown()


def test_the_page_and_its_data_are_the_studys(folder: Path, get: Get) -> None:
    html = get("/").decode()
    assert "<title>eps_grid" in html
    assert len(json.loads(get("/data"))["trials"]) == 6
    with pytest.raises(HTTPError, match="404"):
        get("/../trials.jsonl")


def test_what_runs_is_said_while_it_runs(folder: Path, get: Get) -> None:
    assert json.loads(get("/status"))["running"] is None
    told = {"time": time.time(), "study": "3 of 6 trials ended", "running": [["b", "private_fit", 0.4, 12.0]]}
    (folder / "status.json").write_text(json.dumps(told))
    now = json.loads(get("/status"))
    assert (now["running"], now["study"]) == (told["running"], told["study"])
    assert now["spent"].startswith("eps_grid: 2 private releases so far, ε = 1.")
    assert now["spent"].endswith(" composed, without a budget.")
    (folder / "status.json").write_text(json.dumps({**told, "time": time.time() - STALE - 1}))
    assert json.loads(get("/status"))["running"] is None  # its command was killed
    (folder / "status.json").write_text('{"time"')
    assert json.loads(get("/status"))["running"] is None


def test_it_follows_the_records_from_the_first_row(folder: Path) -> None:
    rows = (folder / "trials.jsonl").read_text()
    (folder / "trials.jsonl").unlink()
    (folder / "study.yaml").write_text((folder / "study.yaml").read_text() + "budget: {epsilon: 4}\n")
    watched = Watched([folder])
    before = watched.records()
    assert watched.data["studies"][0]["headline"] == "No trial has ended yet."
    assert "of a budget of 4." in watched.status()["spent"]
    (folder / "trials.jsonl").write_text(rows)
    assert watched.records() != before
    assert len(watched.data["trials"]) == 6


def test_what_cannot_be_served_is_a_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path / "nowhere"), "--serve"]) == 2
    assert "there is no folder" in capsys.readouterr().err
    with server_of(Watched([folder]), 0) as server:
        port = server.server_address[1]
        assert main([str(folder), "--serve", str(port)]) == 2
    assert f"port {port} can't be used" in capsys.readouterr().err
