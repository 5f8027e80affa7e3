"""Every node reaches the store and the data, and has the packages of the driver: asked before anything is released.
Where nodes have stores of their own, each would make the private fits again, and the study's ε would be false; where
torch differs, no trial would be the same on the next node."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps import images
from sweeps.plan import NO_MODEL, PlannedTrial, alike
from wavedp import checks
from wavedp.config import TrialConfig
from wavedp.entries import behind
from wavedp.errors import UserError
from wavedp.store import Store

PATIENCE = 60.0  # seconds for a node to answer
SLOWEST = 2e6  # bytes a second, of images that it takes from the store meanwhile
PACKAGES = ("torch", "torchvision", "numpy", "opacus", "dp-accounting", "diffusers", "PyWavelets", "clean-fid")


def versions() -> dict[str, str]:
    """Of Python, and of the packages that make a trial's numbers; "" for one that is not installed."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]  # cu128 or cpu are builds of one version
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def require_alike(trials: Sequence[PlannedTrial], settings: dict[str, Any]) -> None:
    """Raises UserError for a node that has other packages than this process, or not the images that a trial needs and
    that were not sent; it names the node. settings: store, its secret, zoo, and what was sent (sweeps.images)."""
    configs = [group[0].config for group in alike(list(trials), but_for=NO_MODEL)]
    wanted = [(config, images.kept_home(config)) for config in configs]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [_there(node, _has_all).remote(versions(), wanted, settings) for node in nodes]
    patience = PATIENCE + sum(sent.size for sent in settings["sent"].values()) / SLOWEST
    for node, answer in zip(nodes, asked, strict=True):
        reason = _told(answer, patience)
        if reason:
            raise UserError(f"node {_name(node)} {reason}")


def require_shared(url: str) -> None:
    """Let every living node read what this process wrote into the store, and write it back. Raises UserError naming the
    first node that does not, and the reason."""
    store, folder, word = Store(url), f"work/reach-{secrets.token_hex(8)}", secrets.token_hex(16)
    store.put(f"{folder}/driver", word.encode())
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = [_there(node, _answer).remote(url, folder, node["NodeID"], word) for node in nodes]
        for node, answer in zip(nodes, asked, strict=True):
            reason = _told(answer) or _written(store, f"{folder}/{node['NodeID']}", word)
            if reason:
                raise UserError(
                    f"node {_name(node)} does not reach store={url} ({reason}): "
                    "give store=URL that every node can read and write, such as a folder on NFS or s3://bucket/wavedp."
                )
    finally:
        store.remove(folder)


def _there(node: dict[str, Any], function: Any) -> Any:
    """The function, to be called on that node."""
    return function.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"


def _told(answer: ray.ObjectRef, patience: float = PATIENCE) -> str | None:
    try:
        return ray.get(answer, timeout=patience)
    except RayTaskError as error:
        return f"fails with {type(error.cause).__name__}: {error.cause}".replace("\n", " ")
    except RayError as error:  # the node died, or says nothing
        return f"gives no answer ({type(error).__name__})"


def _written(store: Store, name: str, word: str) -> str | None:
    try:
        return None if store.get(name).decode() == word else "another store has this name there"
    except FileNotFoundError:
        return "what it wrote is not there"


@ray.remote(num_cpus=0, max_retries=0)
def _answer(url: str, folder: str, node: str, word: str) -> str | None:
    """Why this node does not reach the store; None once it has read the word and written it."""
    try:
        store = Store(url)
        if store.get(f"{folder}/driver").decode() != word:
            return "another store has this name there"
        store.put(f"{folder}/{node}", word.encode())
    except FileNotFoundError:
        return "what the driver wrote is not there"
    except Exception as error:  # each backend has its own
        return f"{type(error).__name__}: {error}"
    return None


@ray.remote(num_cpus=0, max_retries=0)
def _has_all(
    wanted: dict[str, str], trials: list[tuple[TrialConfig, list[str]]], settings: dict[str, Any]
) -> str | None:
    """What this node lacks of the packages and images, as the rest of a sentence; None if nothing. trials: each with
    the sections whose images could have been sent."""
    there = versions()
    for name, version in wanted.items():
        if there[name] != version:
            have = f"{name} {there[name]}" if there[name] else f"no {name}"
            return f"has {have}, and the driver {version or 'none'}: install the same packages on every node."
    store = Store(settings["store"], behind(settings["zoo"]), settings["secret"])
    for config, kept in trials:
        try:
            checks.check_images(images.at_hand(config, store, settings["sent"]), store)
        except UserError as error:
            return " ".join(filter(None, [f"can't make a trial: {error}", images.hint(config, kept)]))
    return None
