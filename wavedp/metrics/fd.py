"""The Fréchet distance between features of another network than Inception: does a ranking survive a change of eyes?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.metrics import Given, Meaning, MetricMethod
from wavedp.metrics.views import Real, Sets
from wavedp.weight_files import sha256

if TYPE_CHECKING:
    from torch import Tensor


WEIGHTS = ("model.safetensors", "pytorch_model.bin")
DINO = {"dinov2": "dinov2", "dinov2_with_registers": "dinov2reg"}
"""Models of transformers that a folder may hold, and their names in metrics."""
SIZES = {384: "s", 768: "b", 1024: "l", 1536: "g"}


@dataclass(frozen=True)
class SecondFrechetConfig:
    """Nothing to set: metrics.second_network says which network."""

    name: str = result("fd")


class SecondFrechet(MetricMethod):
    """Features by wavedp.metrics.second_networks."""

    name, Config, better, standing = "fd", SecondFrechetConfig, "lower", True

    def asked(self, config: MetricsConfig) -> bool:
        """By metrics.second_network."""
        return config.second_network is not None

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """By the network's name."""
        network = network_name(config)
        about = f"Fréchet distance of the features of {network}, {{generated}} generated against {{real}}"
        return {f"fd_{network}": Meaning(self.better, about)}

    def names(self, own: Any, sets: Sets) -> dict[str, str]:
        """fd_<network>_<generated>_<real>."""
        return {"fd": f"fd_{network_name(sets.config)}_{sets.samples.name}_{sets.real.name}"}

    def require(self, own: Any, given: Given) -> None:
        """A network is chosen, and can be opened."""
        if given.config.second_network is None:
            raise UserError("metric fd needs another network: set metrics.second_network, or leave fd out.")
        from wavedp.metrics import second_networks

        second_networks.load(given.config, "cpu")

    def reference_content(self, own: Any, config: MetricsConfig) -> list[Any]:
        """The network: its name, or its file's content."""
        return [{"second_network": network_identity(config)}]

    def reference_work(self, own: Any, real: Real) -> dict[str, int]:
        """Features of the reference images."""
        return {"second": real.images.count}

    def work(self, own: Any, sets: Sets) -> dict[str, int]:
        """Features of the samples."""
        return {"second": sets.samples.count}

    def reference(self, own: Any, real: Real) -> dict[str, Tensor]:
        """second: float32 n D of the reference images."""
        from wavedp.metrics import second_networks

        return {"second": real.images.features(second_networks.extract)}

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """One distance; its scale is not FID's."""
        from wavedp.metrics import second_networks
        from wavedp.metrics.frechet import frechet_distance_of

        samples = sets.samples.features(second_networks.extract)
        return {self.names(own, sets)["fd"]: frechet_distance_of(samples, reference["second"])}


def network_name(config: MetricsConfig) -> str:
    """The network's name in metrics: effnetlite0, torchscript-<8 digits of the file's sha256>, or for a folder of
    transformers its layout and digits, such as dinov2-l14-3fa9c2d1. Raises UserError for second_network=file without a
    file."""
    if config.second_network != "file":
        return str(config.second_network)
    digits, path = network_identity(config)[:8], Path(str(config.second_network_file))
    return f"{_layout(path)}-{digits}" if path.is_dir() else f"torchscript-{digits}"


def network_identity(config: MetricsConfig) -> str:
    """The sha256 of the user's file, or of a folder's weights and configuration, or the name of the packaged network.
    Raises UserError for a missing file."""
    if config.second_network != "file":
        return str(config.second_network)
    path = Path(config.second_network_file or "")
    if config.second_network_file and path.is_dir():
        files = (path / "config.json", folder_weights(path))
        return hashlib.sha256(" ".join(sha256(file) for file in files).encode()).hexdigest()
    if not path.is_file():
        raise UserError(
            f"metrics.second_network=file, and metrics.second_network_file={config.second_network_file!r} is not a "
            "file: name a TorchScript file, or a folder with transformers' Dinov2Model."
        )
    return sha256(path)


def folder_weights(folder: Path) -> Path:
    """The weights in a folder that save_pretrained wrote. Raises UserError for a folder without."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None or not (folder / "config.json").is_file():
        raise UserError(
            f"metrics.second_network_file={folder} lacks config.json or {' or '.join(WEIGHTS)}: give a folder as "
            "save_pretrained writes it."
        )
    return found


def _layout(folder: Path) -> str:
    """The network of a folder in a word. Raises UserError for another one than DINOv2."""
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, width, patch = about.get("model_type"), about.get("hidden_size", 768), about.get("patch_size", 14)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read ({error}): give a model's own.") from error
    if kind not in DINO:
        raise UserError(
            f"{folder} holds a model of type {kind!r}, and a folder may hold {' or '.join(DINO)}: export yours to a "
            "TorchScript file by torch.jit.trace."
        )
    return f"{DINO[kind]}-{SIZES.get(width, f'w{width}p')}{patch}"
