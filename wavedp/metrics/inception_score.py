"""Inception score: are generated images each of one class, and together of many? By exp of the mean divergence
KL(p(class | image) ‖ p(class)), between 1 and the number of classes (Salimans et al., 2016, arXiv 1606.03498).

The classes are the 1,008 of the FID network's last layer, with its bias, as in DPImageBench; torch-fidelity leaves the
bias out. No package brings that layer. `layer` takes either file that holds it: pytorch-fid's, torch-fidelity's and
DPImageBench's (pt_inception-2015-12-05-6726825d.pth), or NVIDIA's TorchScript, which clean-fid downloads to
/tmp/inception-2015-12-05.pt. The score says nothing about real images.

    n generated images, K classes
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import performance, result
from wavedp.metrics import FeatureMetric, Given, Meaning, features_clause
from wavedp.metrics.views import Estimate, Real, Sets, how
from wavedp.weight_files import sha256

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED = "6726825d"
"""The first 8 digits of the sha256 of pytorch-fid's file, which are in its name."""
FILES = f"pytorch-fid's pt_inception-2015-12-05-{PUBLISHED}.pth, or clean-fid's inception-2015-12-05.pt"


@dataclass(frozen=True)
class InceptionScoreConfig:
    """layer: file of weights with `fc.weight` K 2048 and `fc.bias` K, or TorchScript with `output.weight` and
    `output.bias`; its content is in the key. splits: mean over so many parts of the images; 1 as in DPImageBench, 10 in
    many papers. Names say another number than 1."""

    name: str = result("inception_score")
    layer: str | None = performance(None, path=True)
    splits: int = result(1, within="[1, inf)")


class InceptionScore(FeatureMetric):
    """Looks at generated images only. Names: is_<how>_<generated>, is-s10_… for 10 splits, and with 8 digits of the
    file's sha256 for another file than the published one."""

    name, Config, better = "inception_score", InceptionScoreConfig, "higher"

    def content(self, config: InceptionScoreConfig) -> dict[str, Any]:
        """The content of the layer's file."""
        return {**super().content(config), "layer": sha256(_file(config)) if config.layer else None}

    def meanings(self, own: InceptionScoreConfig, config: MetricsConfig) -> dict[str, Meaning]:
        """By splits and by how the features were made."""
        parts = "" if own.splits == 1 else f", mean over {own.splits} splits"
        about = f"Inception score of {{generated}} generated images{parts}, {features_clause(config)}"
        return {f"{_called(own)}_{how(config)}": Meaning(self.better, about)}

    def names(self, own: InceptionScoreConfig, sets: Sets) -> dict[str, str]:
        """is_<how>_<generated>."""
        return {"is": f"{_called(own)}_{how(sets.config)}_{sets.samples.name}"}

    def require(self, own: InceptionScoreConfig, given: Given) -> None:
        """The network, its last layer, and two images in each split."""
        super().require(own, given)
        last_layer(_file(own))
        _check_splits(own, given.sets.samples.count)

    def reference_work(self, own: Any, real: Real) -> dict[str, int]:
        """None."""
        return {}

    def reference(self, own: Any, real: Real) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def measure(self, own: InceptionScoreConfig, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """With the standard error of the mean over splits; papers print it times √(splits - 1)."""
        _check_splits(own, sets.samples.count)
        weight, bias = last_layer(_file(own))
        logits = sets.samples.features().double() @ weight.double().T + bias.double()
        return {self.names(own, sets)["is"]: Estimate(*inception_score(logits, own.splits))}


def inception_score(logits: Tensor, splits: int) -> tuple[float, float | None]:
    """The mean score of so many equal parts of logits n K, in their order, and its standard error (None for one)."""
    import torch

    scores = []
    for part in logits.double().log_softmax(1).tensor_split(splits):
        together = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - together)).sum(1).mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std() / splits**0.5) if splits > 1 else None


def last_layer(path: Path) -> tuple[Tensor, Tensor]:
    """Weight K 2048 and bias K in a file. Raises UserError for a file without them."""
    import torch

    from wavedp.metrics import features

    try:
        found, name = torch.load(path, map_location="cpu", weights_only=True), "fc"
    except Exception:  # torch.load raises nearly anything for other files
        found, name = _scripted(path), "output"
    try:
        weight, bias = (found[f"{name}.{part}"].detach().float() for part in ("weight", "bias"))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no last layer (fc.weight and fc.bias): give {FILES}.") from error
    if weight.ndim != 2 or weight.shape[1] != features.DIMENSIONS or bias.shape != weight.shape[:1]:
        raise UserError(
            f"{path} has a last layer of {list(weight.shape)} and {list(bias.shape)}: give the FID network's, "
            "[1008, 2048] and [1008]."
        )
    return weight, bias


def _scripted(path: Path) -> dict[str, Tensor]:
    """The weights in a TorchScript file; none in another one."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recent torch deprecates the form in which NVIDIA published the network
        try:
            return torch.jit.load(path, map_location="cpu").state_dict()
        except RuntimeError:
            return {}


def _called(own: InceptionScoreConfig) -> str:
    digits = sha256(_file(own))[:8] if own.layer else PUBLISHED
    marks = ([] if digits == PUBLISHED else [digits]) + ([] if own.splits == 1 else [f"s{own.splits}"])
    return "-".join(["is", *marks])


def _file(own: InceptionScoreConfig) -> Path:
    if own.layer is None or not Path(own.layer).is_file():
        raise UserError(
            f"metric inception_score needs the FID network's last layer, and layer={own.layer!r} is not a file: give "
            f"{FILES}, or leave inception_score out."
        )
    return Path(own.layer)


def _check_splits(own: InceptionScoreConfig, images: int) -> None:
    if not 1 <= own.splits <= images // 2:
        raise UserError(
            f"metric inception_score with splits={own.splits} and {images} images has no two images in each: use 1 to "
            f"{images // 2}."
        )
