"""Which files a ready-made upscaler's weights are, and what names them in a stage key: content, never a path.

    spandrel        upscaler.path: a .pth or .safetensors file      -> its sha256
    ldm_sr, sd_x4   upscaler.path: a folder that diffusers wrote    -> the sha256 of its files
                    upscaler.path: a hub id (null: HUB_IDS)         -> the id and the commit in upscaler.revision

Nothing is downloaded: a model of the hub must be in its cache already. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from wavedp.config import UpscalerConfig
from wavedp.errors import UserError

HUB_IDS = {
    "ldm_sr": "CompVis/ldm-super-resolution-4x-openimages",
    "sd_x4": "stabilityai/stable-diffusion-x4-upscaler",
}


def identity(config: UpscalerConfig) -> dict[str, str] | None:
    """What stands for the weights in a stage key; None for upscalers whose weights are fixed by their name.

    Raises UserError for a path that is not there, or a hub id without a commit.
    """
    if config.name == "spandrel":
        return {"sha256": sha256(_file(config))}
    if config.name in HUB_IDS:
        folder = _local(config)
        return {"sha256": sha256(folder)} if folder else dict(zip(("hub", "revision"), _hub(config), strict=True))
    return None


def locate(config: UpscalerConfig) -> Path:
    """The file of `spandrel`, or the folder of `ldm_sr` and `sd_x4`. Raises UserError where `identity` does, and for a
    model of the hub that is not in its cache."""
    if config.name == "spandrel":
        return _file(config)
    folder = _local(config)
    if folder is not None:
        return folder
    hub_id, revision = _hub(config)
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise UserError(
            f"{hub_id} at {revision} is not in the cache of the Hugging Face hub: run hf download {hub_id} --revision "
            f"{revision}, or set upscaler.path to a folder with the model."
        ) from None


def sha256(path: Path) -> str:
    """64 hex digits of a file, or of a folder's files and their names (hidden ones left out)."""
    if path.is_file():
        status = path.stat()
        return _of_file(str(path), status.st_size, status.st_mtime_ns)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{inside.as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)  # the same file is asked for by every trial of a study
def _of_file(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(config: UpscalerConfig) -> Path:
    if config.path is None:
        raise UserError("upscaler=spandrel needs weights: set upscaler.path to a .pth or .safetensors file.")
    path = Path(config.path).expanduser()
    if not path.is_file():
        raise UserError(f"upscaler.path={config.path} is no file: give the .pth or .safetensors file of a model.")
    return path


def _local(config: UpscalerConfig) -> Path | None:
    """The folder that upscaler.path names; None for a hub id."""
    if config.path is None:
        return None
    path = Path(config.path).expanduser()
    if not path.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", config.path):
        return None
    if not path.is_dir():
        raise UserError(
            f"upscaler.path={config.path} is neither a folder nor a hub id: give one, or null for "
            f"{HUB_IDS[config.name]}."
        )
    return path


def _hub(config: UpscalerConfig) -> tuple[str, str]:
    """Hub id and commit."""
    hub_id = config.path or HUB_IDS[config.name]
    if not re.fullmatch(r"[0-9a-f]{40}", config.revision or ""):
        raise UserError(
            f"upscaler.revision={config.revision} does not fix what {hub_id} holds: give the commit, 40 hex digits, "
            "that its page lists under `Files and versions`, or set upscaler.path to a folder with the model."
        )
    assert config.revision is not None
    return hub_id, config.revision
