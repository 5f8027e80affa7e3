"""The machines that Ray runs on: one's own, or a cluster that is joined. What hinders it is one sentence."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from sweeps import head, shipped
from sweeps.afterwards import watch
from wavedp import chain
from wavedp.errors import UserError

LONGEST_SOCKET = 107  # bytes that Linux takes for the path of a socket
SOCKET = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"  # as Ray names it in its folder
PROBLEMS = (OSError, ValueError, RuntimeError, AuthenticationError)  # which Ray raises for a machine that hinders it
TCP_SECONDS, RAY_SECONDS = 5, 60  # an answer at the address, and one of Ray's that is still starting its Python


def start_ray(options: dict[str, Any]) -> str | None:
    """Join the cluster at options["address"], or start one of this machine's cores. Already started: kept. Returns the
    address of the dashboard of a cluster that was joined, where it has one.

    One's own cluster is "local": without an address Ray would join whatever RAY_ADDRESS or another user's cluster says.
    It ends with this process, even if that is killed (sweeps.afterwards). To a cluster that was joined our code and the
    user's methods travel (sweeps.shipped), unless options["ship_code"] is false.
    Raises UserError, soon, when there is no such cluster or Ray cannot start.
    """
    if ray.is_initialized():
        return None
    address = options.get("address") or "local"
    own: dict[str, Any] = {}
    if address == "local":
        _allow_own_token()
        own = {"num_cpus": options.get("num_cpus"), "object_store_memory": 200 * 2**20, "include_dashboard": False}
        own["_temp_dir"] = str(short_folder(wanted_folder(), Path("/tmp/ray"), Path(f"/tmp/ray-{os.getuid()}")))
    else:
        refuse_unanswered(address)
    # Workers of a local study import the packages from here, whether or not they are installed.
    environment: dict[str, Any] = {"env_vars": {"PYTHONPATH": _python_path(), "TQDM_DISABLE": "1"}}
    try:
        with tempfile.TemporaryDirectory(prefix="wavedp-code-") as code:
            if not own and options.get("ship_code", True) and shipped.needed():
                environment["working_dir"] = str(shipped.stage(shipped.modules(), Path(code)))
            with contextlib.nullcontext() if own else head.quiet():
                context = ray.init(
                    address=address, logging_level=logging.ERROR, log_to_driver=False, runtime_env=environment, **own
                )
        if own:
            watch(Path(context.address_info["session_dir"]))  # type: ignore[attr-defined]
        else:
            head.watch(context.address_info["gcs_address"])  # type: ignore[attr-defined]
    except PROBLEMS as error:
        remedy = "see the logs of Ray on this machine" if own else "ask `ray status` on a node of it"
        raise UserError(
            f"Ray can't run at ray.address={address} ({' '.join(str(error).split())}): {remedy}."
        ) from error
    url = None if own else context.dashboard_url
    return f"http://{url}" if url and "://" not in url else url or None


def stage_resources(options: dict[str, Any], device: str) -> dict[str, dict[str, Any]]:
    """{stage: what it asks Ray for}. A stage computes on a GPU if it asks for one, and asks for one as the options say,
    unless the device is cpu, or auto and there is none: in a cluster that was joined, on whatever node; on one's own
    machine, for torch.
    """
    import torch

    joined = bool(options.get("address"))
    found = ray.cluster_resources().get("GPU", 0) > 0 if joined else torch.cuda.is_available()
    resources = {name: dict(options["stages"].get(name) or {"num_cpus": 1}) for name in chain.NAMES}
    if device == "cpu" or (device == "auto" and not found):
        for asked in resources.values():
            asked.pop("num_gpus", None)
    return resources


def check_resources(stage_resources: dict[str, dict[str, Any]], elastic: bool = False) -> None:
    """Raises UserError when some stage asks for more than any node of the cluster has (Ray would wait for ever).

    elastic: nodes may come that are not there yet. Nothing is refused then; the progress display says what is waited
    for.
    """
    if elastic:
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, asked in stage_resources.items():
        wanted = {"CPU": asked.get("num_cpus", 0), "GPU": asked.get("num_gpus", 0), "memory": asked.get("memory", 0)}
        wanted |= asked.get("resources") or {}
        wanted |= {f"accelerator_type:{kind}": 0.001 for kind in filter(None, [asked.get("accelerator_type")])}
        if any(all(node.get(resource, 0) >= least for resource, least in wanted.items()) for node in nodes):
            continue
        each = {resource: max(node.get(resource, 0) for node in nodes) for resource in wanted}
        lacking = [resource for resource, least in wanted.items() if each[resource] < least]
        if not lacking:
            told = ", ".join(f"{least:g} {resource}" for resource, least in wanted.items() if least)
            why = f"for {told} together, which no single node has"
        else:
            why = f"for {wanted[lacking[0]]:g} {lacking[0]} and no node has more than {each[lacking[0]]:g}"
        raise UserError(
            f"stage {name} asks {why}: lower {_option(name, (lacking or ['GPU'])[0])}, use machines that have it, or "
            "set ray.elastic=true if such a machine will join."
        )


def _option(stage: str, resource: str) -> str:
    """The setting that asks for a resource."""
    named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    kind = "accelerator_type" if resource.startswith("accelerator_type:") else f"resources.{resource}"
    return f"ray.stages.{stage}.{named.get(resource, kind)}"


def refuse_unanswered(address: str) -> None:
    """Raises UserError for an address where no Ray cluster answers; Ray itself would try for minutes.

    address: host:port, or auto for RAY_ADDRESS or the cluster on this machine. Inside a job that Ray runs nothing is
    asked: the cluster is there, and when a second driver of the job ends, Ray deletes the folder of both.
    """
    if not shipped.needed():
        return
    remedy = "start it with `ray start --head`, or leave ray.address out to use this machine alone"
    place = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if place.startswith("ray://"):
        raise UserError(
            f"ray.address={place} is of Ray Client, which ends with its connection: give the head's host:port (6379 as "
            "a rule) on a node of the cluster, or send the command there by `ray job submit`."
        )
    if place:
        host, _, port = place.rpartition(":")
        if "/" in place or not host or not port.isdigit():
            raise UserError(f"ray.address={place} is not the host:port of a Ray head: give that, or auto on its node.")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=TCP_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"nothing answers at ray.address={place} ({error}): {remedy}.") from error
    _show_token_if_asked(address)
    reason = _refusal(address)
    if reason is not None:
        raise UserError(f"no Ray cluster answers at ray.address={place or address} ({reason}): {remedy}.")


def _refusal(address: str) -> str | None:
    """Why another process cannot join the cluster, None if it can: a call to Ray can't be given up, a process can."""
    join = [sys.executable, "-c", "import sys, ray; ray.init(sys.argv[1], log_to_driver=False)", address]
    try:
        subprocess.run(join, capture_output=True, encoding="utf-8", errors="replace", timeout=RAY_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return f"not within {RAY_SECONDS} s"
    except subprocess.CalledProcessError as error:
        return next(iter(error.stderr.strip().splitlines()[-1:]), f"status {error.returncode}").rstrip(".")
    return None


def wanted_folder() -> Path:
    """Where Ray would keep its sockets and logs by itself."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray").absolute()


def short_folder(*choices: Path) -> Path:
    """The first of the folders that can be written and whose sockets have no longer names than Linux takes."""
    longest = LONGEST_SOCKET - len(SOCKET)
    for folder in choices:
        if len(os.fsencode(folder)) <= longest and _can_write(folder):
            return folder
    raise UserError(
        f"Ray can't keep its sockets in {choices[0]} (no more than {longest} bytes, and writable): set RAY_TMPDIR to "
        "such a folder."
    )


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _allow_own_token() -> None:
    """Ray keeps its token in the home folder; where that cannot be written, the cluster has one of its own."""
    home = Path(os.environ.get("HOME") or Path.home(), ".ray")
    if not _can_write(home):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _show_token_if_asked(address: str) -> None:
    """Have Ray show its token to a cluster that asks for one (by default, since 2.60, one whose head found a token in
    the home folder when it started), and to no other.

    Ray shows none at an address that was typed; and a driver that shows one is asked without one by a head that has
    none, and counts as dead.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *(["--address", address] * (address != "auto"))]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            ask,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=RAY_SECONDS,
        )
        os.environ["RAY_AUTH_MODE"] = "token" if "AuthenticationError" in done.stderr else "disabled"
        with contextlib.suppress(ImportError, AttributeError):  # before 2.60
            from ray._raylet import Config  # type: ignore[attr-defined]

            Config.initialize("")  # Ray has read the environment at its import


def _python_path() -> str:
    root = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH", "")])])
