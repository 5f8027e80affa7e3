"""A study's records in the store, beside its artifacts: one object for each row and line, which nobody else's write
can lose. `python -m sweeps.rebuild` makes runs/<study> of them again.

    <store>/studies/<study>-<hash of its configuration>/study.yaml
                                                       /trials/<hash>.json, ledger/<hash>.json
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from typing import Any

from wavedp.files import sha256
from wavedp.privacy import ledger
from wavedp.store import Store

FOLDER = "studies"


class Copy:
    """The copy of one study. A copy that can't be written is a warning: the folder in results/ is what counts."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    def put_study(self, content: bytes) -> None:
        self._put("study.yaml", content)

    def put_missing(self, rows: Iterable[dict[str, Any]], lines: Iterable[ledger.Line]) -> None:
        """Copy what earlier versions, or a store that was full, left out."""
        there = {kind: set(self.store.names(f"{FOLDER}/{self.name}/{kind}")) for kind in ("trials", "ledger")}
        for row in rows:
            if _file(row["trial"]) not in there["trials"]:
                self.put_trial(row)
        for line in lines:
            if _file(*ledger.identity(line)) not in there["ledger"]:
                self.put_line(line)

    def put_trial(self, row: dict[str, Any]) -> None:
        self._put(f"trials/{_file(row['trial'])}", _json(row))

    def put_line(self, line: ledger.Line) -> None:
        self._put(f"ledger/{_file(*ledger.identity(line))}", _json(line))

    def study(self) -> bytes:
        """The content of study.yaml. Raises FileNotFoundError if there is none."""
        return self.store.get(f"{FOLDER}/{self.name}/study.yaml")

    def trials(self) -> list[dict[str, Any]]:
        """Every row, in the order of the trials' names."""
        return sorted(self._all("trials"), key=lambda row: row["trial"])

    def ledger(self) -> list[ledger.Line]:
        """Every line, oldest first."""
        return sorted(self._all("ledger"), key=lambda line: line["time"])

    def _put(self, name: str, content: bytes) -> None:
        try:
            self.store.put(f"{FOLDER}/{self.name}/{name}", content)
        except Exception as error:  # each backend has its own
            warnings.warn(f"No copy of the records in {self.store.root} ({error}).", stacklevel=3)

    def _all(self, kind: str) -> list[dict[str, Any]]:
        folder = f"{FOLDER}/{self.name}/{kind}"
        return [json.loads(self.store.get(f"{folder}/{name}")) for name in self.store.names(folder)]


def copy_name(study: dict[str, Any]) -> str:
    """The name of a study's copy: another configuration under the same name is another study."""
    identity = json.dumps(study["identity"], sort_keys=True)
    return f"{study['study']}-{sha256(identity.encode())[:12]}"


def _file(*parts: str | None) -> str:
    return sha256(json.dumps(parts).encode())[:32] + ".json"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()
