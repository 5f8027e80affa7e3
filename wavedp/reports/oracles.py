"""Wrappers of independent programs for wavedp.reports.agreement: features of files, and metrics of those features.

Importing this needs clean-fid, torch-fidelity and prdc (pip install 'wavedp[metrics]'). Each reads, resizes and
measures with its own code. The network is the file that `features.find_network` finds, run directly and not through
wavedp's code.

    B images, n generated and m real samples
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import prdc as prdc_package
import torch
from cleanfid import fid as cleanfid
from torch_fidelity import FeatureExtractorBase, metric_fid, metric_kid, metric_prc, utils
from torch_fidelity.datasets import ImagesPathDataset
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

BATCH = 32  # clean-fid's default
LAYER = "2048"


class CleanFid:
    """clean-fid in mode clean: Pillow's bicubic resize, one image after the other."""

    package = "clean-fid"
    mode: Literal["clean"] = "clean"

    def __init__(self, network: Path) -> None:
        self.network = _scripted(network)

    def features(self, files: Sequence[Path]) -> np.ndarray:
        """Return B 2048 by `get_files_features`, the loop of clean-fid's get_folder_features."""
        return cleanfid.get_files_features(
            [str(file) for file in files],
            model=lambda batch: self.network((batch - 128) / 128),  # as clean-fid's feature extractor
            num_workers=0,
            batch_size=BATCH,
            device=torch.device("cpu"),
            mode="clean",
            verbose=False,
        )

    def metrics(self, generated: np.ndarray, real: np.ndarray) -> dict[str, float]:
        """Return fid and kid, the latter on one subset with as many samples of each side as the smaller side has."""
        fewer = min(len(generated), len(real))
        return {
            "fid": float(cleanfid.fid_from_feats(generated, real)),
            "kid": cleanfid.kernel_distance(generated[:fewer].astype(float), real[:fewer].astype(float), 1, fewer),
        }


class TorchFidelity:
    """torch-fidelity, which resizes as TensorFlow 1 did; its own weights would be a download, so our file is used."""

    package = "torch-fidelity"
    mode: Literal["tensorflow"] = "tensorflow"

    def __init__(self, network: Path) -> None:
        scripted = _scripted(network)

        class Extractor(FeatureExtractorBase):  # type: ignore[misc]
            """Equivalent of torch-fidelity's FeatureExtractorInceptionV3, except for the network."""

            @staticmethod
            def get_provided_features_list() -> tuple[str]:
                return (LAYER,)

            def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
                large = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (299, 299), align_corners=False)
                return (scripted((large - 128) / 128).flatten(1),)

        self.extractor = Extractor("wavedp", [LAYER]).eval()

    def features(self, files: Sequence[Path]) -> np.ndarray:
        """Return B 2048 by `get_featuresdict_from_dataset`, which cannot batch images of different sizes."""
        images = ImagesPathDataset([str(file) for file in files])
        batch = BATCH if len({image.shape for image in images}) == 1 else 1
        options: Any = {"batch_size": batch, "cuda": False, "save_cpu_ram": True, "verbose": False}
        return utils.get_featuresdict_from_dataset(images, self.extractor, **options)[LAYER].numpy()

    def metrics(self, generated: np.ndarray, real: np.ndarray) -> dict[str, float]:
        """Return fid, kid (as in `CleanFid.metrics`), precision_k3 and recall_k3."""
        n, m = torch.from_numpy(generated), torch.from_numpy(real)
        fewer = min(len(n), len(m))
        statistics = [metric_fid.fid_features_to_statistics(features) for features in (n, m)]
        fid = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
        kid = metric_kid.kid_features_to_metric(
            n[:fewer].double(), m[:fewer].double(), kid_subsets=1, kid_subset_size=fewer, verbose=False
        )
        precision, recall = metric_prc.calculate_precision_recall_part(n.double(), m.double(), neighborhood=3)
        return {
            "fid": fid[metric_fid.KEY_METRIC_FID],
            "kid": kid[metric_kid.KEY_METRIC_KID_MEAN],
            "precision_k3": precision,
            "recall_k3": recall,
        }


def prdc(generated: np.ndarray, real: np.ndarray, k: int) -> dict[str, float]:
    """Return precision, recall, density and coverage by the package of Naeem et al."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the counts
        found = prdc_package.compute_prdc(real.astype(float), generated.astype(float), nearest_k=k)
    return {name: float(value) for name, value in found.items()}


def version(package: str) -> str:
    """Return `package` and its installed version as text."""
    return f"{package} {metadata.version(package)}"


def _scripted(path: Path) -> torch.nn.Module:
    """Load the modules of the TorchScript file: normalised B 3 299 299 -> B 2048."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recent torch versions deprecate TorchScript
        network = torch.jit.load(path, map_location="cpu").eval()
    layers = getattr(getattr(network, "net", network), "layers", network)
    return torch.nn.Sequential(layers, torch.nn.Flatten())
