"""study.yaml, which tells what a study asked and how: one reader for all who open a study's folder.

case                                        result
the file is not there                       {}; refused where fields are needed
a byte order mark, fields nobody knows      read as if they were not there
no UTF-8, no YAML, empty, no mapping        UserError that names the file, the line if there is one, the remedy
axes that are a list, a config of text      the same: SECTIONS are mappings, or null
a needed field is missing                   UserError that names it
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from wavedp.errors import UserError

NAME = "study.yaml"
SECTIONS = ("axes", "config", "identity", "metrics", "versions")


def read_meta(folder: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """The content of a folder's study.yaml; see the module. needed: fields that must be there: `config.data`."""
    path = folder / NAME
    meta = _content(path) if path.is_file() else {}
    for name in needed:
        value: Any = meta
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            raise UserError(f"{path} has no {name}: {_remedy(folder)}.")
    return meta


def _content(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        text = content.decode()
        meta = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise _damaged(path, "no UTF-8", 1 + content[: error.start].count(b"\n")) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _damaged(path, error.problem or error.context or "no YAML", mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        raise _damaged(path, error.reason, 1 + text.count("\n", 0, error.position)) from None
    except (yaml.YAMLError, ValueError) as error:  # a date that is none, for one
        raise _damaged(path, str(error)) from None
    if not isinstance(meta, dict):
        raise _damaged(path, "empty" if meta is None else "not a mapping")
    for name in SECTIONS:
        if not isinstance(meta.get(name), dict | None):
            raise _damaged(path, f"{name} is not a mapping")
    return meta


def _damaged(path: Path, reason: str, line: int | None = None) -> UserError:
    place = "" if line is None else f"line {line}: "
    return UserError(f"{path} is damaged ({place}{' '.join(reason.split())}): {_remedy(path.parent)}.")


def _remedy(folder: Path) -> str:
    return f"restore it, or remove it and let `python -m sweeps.rebuild {folder}` make it again of the study's store"
