"""Show studies while they run:  python -m analysis.report runs/<study> [more studies] --serve [PORT]

The page of analysis.page on this machine's own address, and above it what the study's command says in its terminal:
trials in flight, stage, time left, and the ε spent so far against the budget. The page looks every two seconds and
draws itself again when a trial has ended.

    /         the page        /data     what it shows (analysis.page_data)
    /status   {running, study, spent, records}; running is null when no command runs the study
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from analysis import captions
from analysis.load import Study, load
from analysis.page import page_of
from analysis.page_data import page_data
from analysis.price import composed, releases
from analysis.replicates import epsilon_text
from wavedp.errors import UserError
from wavedp.jsonl import read_lines
from wavedp.study_file import read_meta

HOST, PORT = "127.0.0.1", 8780
STALE = 30.0  # seconds after which a status tells of a command that was killed
FILES = ("study.yaml", "trials.jsonl", "ledger.jsonl")


class Watched:
    """Studies on the disk, read again when their records have changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)
        self.lock, self.read = Lock(), ""
        self.data: dict[str, Any] = {}
        self.spent = ""
        self.records()

    def records(self) -> str:
        """What tells one state of the records from another; reads them if it is new. Raises UserError as `load`."""
        stamp = ";".join(
            f"{path.stat().st_mtime_ns}" if path.is_file() else "-"
            for folder in self.folders
            for path in (folder / name for name in FILES)
        )
        with self.lock:
            if stamp != self.read:
                studies = [begun(folder) for folder in self.folders]
                self.data, self.spent = page_data(studies), " ".join(map(spent, studies))
                self.read = stamp
        return stamp

    def status(self) -> dict[str, Any]:
        """The answer to /status."""
        stamp, running, said = self.records(), [], []
        for folder in self.folders:
            told = _told(folder / "status.json")
            if told is not None:
                running += told["running"]
                said.append(told["study"])
        return {"running": running if said else None, "study": "; ".join(said), "spent": self.spent, "records": stamp}


def begun(folder: Path) -> Study:
    """A study, also one of which no trial has ended yet."""
    if (folder / "study.yaml").is_file() and not _has_rows(folder / "trials.jsonl"):
        path = folder / "ledger.jsonl"
        return Study(folder, read_meta(folder), [], read_lines(path)[0] if path.is_file() else [])
    return load(folder)


def spent(study: Study) -> str:
    """The ε of all releases so far, and the study's budget."""
    lines = releases(study)
    limit = ((study.meta.get("budget") or {}).get("epsilon")) if study.meta else None
    of = f" of a budget of {limit:g}" if limit is not None else ", without a budget"
    return f"{study.name}: {captions.count_text(len(lines))} so far, ε = {epsilon_text(composed(lines))} composed{of}."


def serve(folders: Sequence[Path], port: int = PORT) -> None:
    """Answer until interrupted. Raises UserError for a folder that is no study and for a port that is in use."""
    watched = Watched(folders)
    with server_of(watched, port) as server:
        print(f"http://{HOST}:{server.server_address[1]} shows {watched.data['title']}; Ctrl-C ends it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def server_of(watched: Watched, port: int) -> ThreadingHTTPServer:
    """A server that answers on this machine alone. port: 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            watched.records()
            if self.path == "/":
                self._answer("text/html; charset=utf-8", page_of(watched.data))
            elif self.path == "/data":
                self._answer("application/json", json.dumps(watched.data))
            elif self.path == "/status":
                self._answer("application/json", json.dumps(watched.status()))
            else:
                self.send_error(404)

        def _answer(self, kind: str, text: str) -> None:
            content = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: a page asks every two seconds."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UserError(f"port {port} can't be used ({error.strerror}): name another, --serve PORT.") from error


def _has_rows(path: Path) -> bool:
    return path.is_file() and bool(path.read_bytes().strip())


def _told(path: Path) -> dict[str, Any] | None:
    """What the running command wrote; None without one, or from one that was killed."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if time.time() - told["time"] < STALE else None
