"""Downstream accuracy: classifiers learn from generated images only and are tested on real ones.

acc_cnn400_2k_test           a CNN after 400 steps (wavedp.metrics.downstream)
acc_dpimagebench_60k_test    mean of DPImageBench's three classifiers (wavedp.metrics.dpimagebench), and each:
acc_dpimagebench-resnet110_60k_test, -wrn40-4, -resnext29; `light` likewise
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.metrics import Given, Meaning, MetricMethod
from wavedp.metrics.views import Sets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AccuracyConfig:
    """Nothing to set: metrics.downstream and metrics.downstream_steps say what learns."""

    name: str = result("acc")


class Accuracy(MetricMethod):
    """Uses all samples. What it looks at of real images is their split itself, when it tests."""

    name, Config, better, standing = "acc", AccuracyConfig, "higher", True

    def asked(self, config: MetricsConfig) -> bool:
        """By metrics.downstream, or by steps of the small CNN."""
        return config.downstream != "cnn" or config.downstream_steps > 0

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """One meaning for the CNN; for a protocol one of the mean, and one of each classifier."""
        (split,) = self.test_splits(own, config)
        tested = f"tested on the real {split} images"
        if config.downstream == "cnn":
            about = f"a CNN after {config.downstream_steps} steps on {{generated}} generated images, {tested}"
            return {f"acc_cnn{config.downstream_steps}": Meaning(self.better, about)}
        rest = (
            f"of protocol {config.downstream}, after {{generated}} generated images, chosen on generated images, "
            f"{tested}"
        )
        found = {f"acc_{config.downstream}": Meaning(self.better, f"the classifiers, their mean {rest}")}
        for name in self._classifiers(config):
            found[f"acc_{config.downstream}-{name}"] = Meaning(self.better, f"the classifier {name} {rest}")
        return found

    def names(self, own: Any, sets: Sets) -> dict[str, str]:
        """acc, and acc-<classifier> of a protocol."""
        config = sets.config
        of = f"cnn{config.downstream_steps}" if config.downstream == "cnn" else config.downstream
        (split,) = self.test_splits(own, config)
        tested = f"{sets.everything.name}_{split}"
        return {
            "acc": f"acc_{of}_{tested}",
            **{f"acc-{name}": f"acc_{of}-{name}_{tested}" for name in self._classifiers(config)},
        }

    def require(self, own: Any, given: Given) -> None:
        """Labels of two classes or more, something that learns, and enough to learn from."""
        config = given.config
        if not self.asked(config):
            raise UserError("metric acc needs a classifier: set metrics.downstream_steps above 0, or leave acc out.")
        if not given.labelled:
            raise UserError(
                f"metrics.downstream_steps={config.downstream_steps} and metrics.downstream={config.downstream} need "
                "class labels, which these images lack: set metrics.downstream=cnn and metrics.downstream_steps=0."
            )
        if given.n_classes == 1:
            raise UserError(
                f"metrics.downstream_steps={config.downstream_steps} and metrics.downstream={config.downstream} would "
                "tell one class apart, always rightly: set metrics.downstream=cnn and metrics.downstream_steps=0."
            )
        if config.downstream != "cnn":
            from wavedp.metrics.dpimagebench import FEWEST

            if given.n_generated < FEWEST:
                raise UserError(
                    f"metrics.downstream={config.downstream} learns from {FEWEST} images or more, got "
                    f"{given.n_generated}: raise sampling.n."
                )

    def test_splits(self, own: Any, config: MetricsConfig) -> tuple[str, ...]:
        """A published protocol tests on the test split, whatever FID looks at."""
        return (config.reference_split if config.downstream == "cnn" else "test",)

    def reference_content(self, own: Any, config: MetricsConfig) -> list[Any]:
        """The split that is tested on, where it is another than the reference's."""
        (split,) = self.test_splits(own, config)
        return [{"downstream": split}] if split != config.reference_split else []

    def work(self, own: Any, sets: Sets) -> dict[str, int]:
        """Optimiser steps of the CNN, or epochs of a protocol."""
        if sets.config.downstream == "cnn":
            return {"acc": sets.config.downstream_steps}
        from wavedp.metrics.dpimagebench import PROTOCOLS

        protocol = PROTOCOLS[sets.config.downstream]
        return {"acc": protocol.epochs * len(protocol.networks)}

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """Shares of real images in [0, 1]; `sets.seed` moves the classifiers."""
        (split,) = self.test_splits(own, sets.config)
        generated, real = (_labelled(view) for view in (sets.everything, sets.split(split)))
        names = self.names(own, sets)
        if sets.config.downstream == "cnn":
            from wavedp.metrics.downstream import downstream_accuracy

            steps = sets.config.downstream_steps
            return {names["acc"]: downstream_accuracy(*generated, *real, steps, sets.seed, sets.job(), sets.device)}
        from wavedp.metrics.dpimagebench import PROTOCOLS, accuracies

        protocol = PROTOCOLS[sets.config.downstream]
        found = accuracies(*generated, *real, protocol, sets.seed, sets.job(), sets.device)
        values = {names[f"acc-{name}"]: accuracy.test for name, accuracy in found.items()}
        return {**values, names["acc"]: sum(accuracy.test for accuracy in found.values()) / len(found)}

    @staticmethod
    def _classifiers(config: MetricsConfig) -> list[str]:
        if config.downstream == "cnn":
            return []
        from wavedp.metrics.dpimagebench import PROTOCOLS

        return list(PROTOCOLS[config.downstream].networks)


def _labelled(view: Any) -> tuple[Tensor, Tensor]:
    """uint8 B C H W and int64 B."""
    import torch

    assert view.labels is not None  # or `require` would have refused
    places, images = zip(*view.stream(), strict=True)
    order = torch.cat(places).argsort()
    return torch.cat(images)[order], view.labels
