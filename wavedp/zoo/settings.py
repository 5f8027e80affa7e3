"""The settings of an entry or a released model: what of a trial moves a stage's key, and nothing of this machine."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path
from typing import Any

from wavedp import chain
from wavedp.config import TrialConfig, settings_of, trial_of
from wavedp.errors import UserError

DATA = ("data", "public")
FOLDERS = ("results", "store", "data.home", "public.home", "data.cache", "public.cache", "zoo.path")
"""Settings of a command that name folders of the machine where it was typed."""
Settings = dict[str, Any]


def portable(settings: Settings) -> Settings:
    """The settings without this machine's folders. Of a dataset's path the last part stays, by which it is known
    (wavedp.data.facts)."""
    found = copy.deepcopy(settings)
    for section in (found.get(name) for name in DATA):
        if section:
            for name in ("home", "cache", "ship"):
                section.pop(name, None)
            if section.get("path"):
                section["path"] = Path(section["path"]).name
    found.pop("device", None)
    return found


def anywhere(command: str) -> str:
    """A study's command without the folders of the machine that it was typed on."""
    return shlex.join(word for word in shlex.split(command) if word.partition("=")[0] not in FOLDERS)


def trial_at(settings: Settings, home: str | None) -> TrialConfig:
    """The trial of recorded settings, its datasets in this folder (None: where they are by default).

    Raises UserError for settings that this code does not have.
    """
    values = copy.deepcopy(settings)
    if home is not None:
        for name in DATA:
            if name not in values:
                values[name] = settings_of_default(name)
            if values[name] is not None:
                values[name]["home"] = str(Path(home).expanduser().absolute())
    return trial_of(values)


def settings_of_default(name: str) -> Settings:
    """The section of a dataset that a trial has where its settings do not say."""
    return {"name": getattr(TrialConfig(), name).name}


def deciding(trial: TrialConfig, stage: str) -> Settings:
    """The settings of the trial that decide this stage's key; every other one is left out."""
    wanted, found = chain.keys(trial, stage)[stage], settings_of(trial)
    for name in list(found):
        without = {section: value for section, value in found.items() if section != name}
        if _key(without, stage) == wanted:
            found = without
            continue
        for field in list(found[name]) if isinstance(found[name], dict) else []:
            section = {item: value for item, value in found[name].items() if item != field}
            if field != "name" and _key({**found, name: section}, stage) == wanted:
                found = {**found, name: section}
    return portable(found)


def _key(settings: Settings, stage: str) -> str | None:
    try:
        return chain.keys(trial_of(copy.deepcopy(settings)), stage).get(stage)
    except UserError:
        return None
