"""Every node reaches the store: asked before anything is released. Where nodes have stores of their own, each would
make the private fits again, and the study's ε would be false."""

from __future__ import annotations

import secrets

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wavedp.errors import UserError
from wavedp.store import Store

PATIENCE = 60.0  # seconds for a node to answer


def require_shared(url: str) -> None:
    """Let every living node read what this process wrote into the store, and write it back. Raises UserError naming the
    first node that does not, and the reason."""
    store, folder, word = Store(url), f"work/reach-{secrets.token_hex(8)}", secrets.token_hex(16)
    store.put(f"{folder}/driver", word.encode())
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = [_ask(node["NodeID"], url, folder, word) for node in nodes]
        for node, answer in zip(nodes, asked, strict=True):
            reason = _told(answer) or _written(store, f"{folder}/{node['NodeID']}", word)
            if reason:
                raise UserError(
                    f"node {node['NodeManagerHostname']} ({node['NodeID'][:8]}) does not reach store={url} ({reason}): "
                    "give store=URL that every node can read and write, such as a folder on NFS or s3://bucket/wavedp."
                )
    finally:
        store.remove(folder)


def _ask(node: str, url: str, folder: str, word: str) -> ray.ObjectRef:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return _answer.options(scheduling_strategy=there).remote(url, folder, node, word)


def _told(answer: ray.ObjectRef) -> str | None:
    try:
        return ray.get(answer, timeout=PATIENCE)
    except RayError as error:  # the node died, or says nothing
        return f"{type(error).__name__}"


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
