"""What travels to the nodes of a cluster that have no checkout: our own code, and the modules of the user's methods.

Ray unpacks it on every node, before whatever is installed there. Packages of others are not sent: each node has its
own, in the versions of the driver's (sweeps.reach asks). A job that Ray submitted has brought its code itself.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from wavedp import registry
from wavedp.errors import UserError

OURS = ("wavedp", "sweeps")
LARGEST = 256 * 2**20  # bytes of one module: what is larger has data in it, and Ray takes 500 MiB in all
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # which `ray job submit` sets


def modules() -> list[str]:
    """Ours, and the top-level modules of the methods that this process has found by `module:Object`."""
    return [*OURS, *sorted(name for name in registry.outside_modules() if name in sys.modules)]


def needed() -> bool:
    """Whether the nodes get code from this process."""
    return IN_A_JOB not in os.environ


def stage(names: Iterable[str], folder: Path) -> Path:
    """Copy these top-level modules into the folder, to be sent, and return it.

    Raises UserError for one that has no file, or too many bytes.
    """
    for name in names:
        place = _place(name)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) if place.is_dir() else 0
        if size > LARGEST:
            raise UserError(
                f"{place} has {size / 2**20:.0f} MiB and would travel to every node: keep data out of the package, or "
                "install it there and set ray.ship_code=false."
            )
        if place.is_dir():
            shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(place, folder / place.name)
    return folder


def _place(name: str) -> Path:
    """The file or folder of a top-level module."""
    loaded = sys.modules.get(name)
    spec = loaded.__spec__ if loaded else importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    if places:
        return Path(places[0])
    if spec and spec.origin and Path(spec.origin).is_file():
        return Path(spec.origin)
    raise UserError(f"the module {name} has no file that could travel to the nodes: install it there.")
