"""What `python -m sweeps.run --help [TOPIC]` says, read from the files themselves: conf/ and the configuration classes.

--help              every sweep with its question, the options of each group, the switches of the command
--help GROUP        the fields of a section, such as privacy or data, or the options of a group with a word on each
--help OPTION       the fields that a method reads, such as dp_mepf or wavelet_detail

`--config-dir DIR` before it adds a folder of the user's own files.
"""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from sweeps.settings import ROOT, SHARED
from sweeps.watchers import READY
from wavedp import registry
from wavedp.config import METHODS
from wavedp.errors import UserError, nearest

CONF = ROOT / "conf"
FOLDER = ("--config-dir", "-cd")
WIDTH = 110  # characters of a line
OPTIONAL = ("sweep", "preset", "ray")  # groups whose options have no fields of a trial


def asked(arguments: Sequence[str]) -> str | None:
    """The help that a command line asks for; None if it asks for none. Raises UserError for a topic that is none."""
    words = list(arguments)
    while words and words[0].startswith(FOLDER):
        del words[: 1 if "=" in words[0] else 2]
    if not words or words[0] not in ("--help", "-h", "help"):
        return None
    return text(words[1] if words[1:] else None, places(own_folders(arguments)))


def own_folders(arguments: Sequence[str]) -> list[str]:
    """The folder of the user's own that a command line names, as it is typed there; [] without one."""
    following = itertools.zip_longest(arguments, arguments[1:], fillvalue="")
    return [word.partition("=")[2] or after for word, after in following if word.startswith(FOLDER)]


def places(own: Iterable[str]) -> list[Path]:
    """conf/, and these folders of the user's own."""
    return [CONF, *map(Path, own)]


def text(topic: str | None = None, folders: Sequence[Path] = (CONF,)) -> str:
    """The help on everything, or on one topic. Raises UserError for a topic that is none."""
    groups = _groups(folders)
    if topic is None:
        return _overview(groups)
    if topic in SHARED:
        return _fields(topic, SHARED[topic])
    if topic in groups:
        return "\n".join(
            [f"Options of {topic}:", *(_entry(name, question(path)) for name, path in groups[topic].items())]
        )
    for group, options in groups.items():
        if topic in options:
            return _option(group, topic, options[topic])
    known = [*SHARED, *groups, *(option for options in groups.values() for option in options)]
    raise UserError(f"--help {topic} is no section, group or option: {nearest(topic, known)}")


def _overview(groups: dict[str, dict[str, Path]]) -> str:
    sweeps = [_entry(name, question(path)) for name, path in groups.pop("sweep").items()]
    options = [_entry(group, ", ".join(names)) for group, names in groups.items()]
    return "\n".join(
        [
            "python -m sweeps.run +sweep=NAME [setting=value ...]",
            "",
            "Sweeps, by the question that each answers:",
            *sweeps,
            "",
            "Groups and their options (group=option; --help GROUP or --help OPTION says more):",
            *options,
            "",
            "Any field can be set: privacy.steps=120 'sweep.seeds=[0,1,2]' (--help SECTION lists them: "
            f"{', '.join(SHARED)}).",
            "dry_run=true plans and prices, only=ID runs some trials, study=NAME keeps another set of settings apart.",
            f"watch=[csv] tells {', '.join(READY)} or my_package.mine:Object of every trial that ends.",
            "All of it: sweeps/README.md, wavedp/README.md, conf/config.yaml.",
        ]
    )


def _option(group: str, name: str, path: Path) -> str:
    """A method's fields as its file sets them, or what a file of another kind says."""
    content = _content(path)
    head = f"{group}={name}: {question(path)}"
    if group not in METHODS:
        return f"{head}\n\n{path.read_text(encoding='utf-8').rstrip()}" if group in OPTIONAL else head
    method = registry.find(group, content.get("name", name))
    return f"{head}\n\n{_fields(group, method.Config, content)}"


def _content(path: Path) -> dict[str, Any]:
    """A file's settings on top of those of the files that it names in `defaults`."""
    own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    under: dict[str, Any] = {}
    for name in own.pop("defaults", []):
        if isinstance(name, str) and name != "_self_":
            under |= _content(path.with_name(f"{name}.yaml"))
    return under | own


def _fields(section: str, config: type, given: dict[str, Any] | None = None) -> str:
    """One line a field: its value, class and range, and the comment beside it in the source."""
    comments, hints = _comments(config), get_type_hints(config)
    lines = [f"Fields of {section}:"]
    for item in fields(config):
        value = (given or {}).get(item.name, "" if item.default is MISSING else item.default)
        shown = f"{section}.{item.name}={'null' if value is None else value}"
        about = [item.metadata.get("class", ""), _values(item, hints[item.name]), comments.get(item.name, "")]
        lines.append(_entry(shown, "; ".join(filter(None, about)), column=38))
    lines.append("privacy: changes ε's guarantee; result: changes the numbers; performance: neither.")
    return "\n".join(lines)


def _values(item: Field[Any], hint: Any) -> str:
    """The interval of a number, or the words that a field takes."""
    if within := item.metadata.get("within"):
        return str(within)
    words = get_args(hint) if get_origin(hint) is Literal else ()
    return " | ".join(map(str, words)) if len(words) > 1 else ""


def _comments(config: type) -> dict[str, str]:
    """{field: the comment on its line, or on the lines above it} of a configuration class and those it extends."""
    found: dict[str, str] = {}
    for each in reversed(config.__mro__[:-1]):
        above: list[str] = []
        for line in inspect.getsource(each).splitlines():
            line = line.strip()
            if line.startswith("#"):
                above.append(line.lstrip("# "))
                continue
            if match := re.match(r"(\w+):.*?=[^#]*(?:#\s*(.*))?$", line):
                found[match[1]] = match[2] or " ".join(above)
            above = []
    return found


def _groups(folders: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """{group: {option: its file}}, sweeps first."""
    found: dict[str, dict[str, Path]] = {"sweep": {}}
    for path in sorted(path for folder in folders for path in folder.glob("*/*.yaml")):
        found.setdefault(path.parent.name, {})[path.stem] = path
    return {group: dict(sorted(options.items())) for group, options in found.items()}


def question_of(sweep: str, folders: Iterable[Path]) -> str:
    """A sweep's question, or its name if it has no file."""
    files = (folder / "sweep" / f"{sweep}.yaml" for folder in folders)
    return next((question(file) for file in files if file.exists()), sweep)


def question(path: Path) -> str:
    """The first sentence of the comment that a file begins with: of a sweep's, its question."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @"):
            continue
        if not line.startswith("# ") or line.startswith("#  "):
            break
        lines.append(line[2:])
    sentence = re.match(r".*?[.?](?=\s|$)", " ".join(lines))
    return (sentence[0] if sentence else " ".join(lines)).rstrip(":")


def _entry(name: str, words: str, column: int = 18) -> str:
    """`  name   words`, wrapped below itself."""
    first = f"  {name:<{column}}"
    return textwrap.fill(words, WIDTH, initial_indent=first, subsequent_indent=" " * (column + 2)) if words else first
