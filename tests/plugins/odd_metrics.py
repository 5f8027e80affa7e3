"""Metrics of another package: one that conforms, and ways not to."""

from __future__ import annotations

from dataclasses import dataclass

from wavedp.fields import result
from wavedp.metrics import MetricMethod


@dataclass(frozen=True)
class BrightnessConfig:
    """Nothing to set."""

    name: str = result("brightness")


class Brightness(MetricMethod):
    """Distance of the mean pixel to that of real images."""

    name, Config, better = "brightness", BrightnessConfig, "lower"
    sentence = "difference of the mean pixels, of 255, {generated} generated against {real}"

    def look(self, own):
        """Read by the ledger."""
        return "mean pixel"

    def reference(self, own, real):
        """brightness.mean: float64, one number."""
        return {"brightness.mean": mean(real.images)}

    def measure(self, own, sets, reference):
        """In [0, 255]."""
        value = abs(mean(sets.samples) - reference["brightness.mean"])
        return {self.names(own, sets)[self.name]: float(value)}


def mean(view):
    return sum(chunk.double().mean((1, 2, 3)).sum() for _, chunk in view.stream()) / view.count


class NotANumber(Brightness):
    def measure(self, own, sets, reference):
        return {self.names(own, sets)[self.name]: float("nan")}


class WithoutCounts(Brightness):
    def names(self, own, sets):
        return {self.name: "brightness_of_all"}


class WrongWay(Brightness):
    better = "higher"


class FirstImage(Brightness):
    def measure(self, own, sets, reference):
        _, chunk = next(iter(sets.samples.stream()))
        return {self.names(own, sets)[self.name]: float(chunk[0].double().mean())}


class Random(Brightness):
    def measure(self, own, sets, reference):
        import torch

        return {self.names(own, sets)[self.name]: float(torch.rand(()))}


class Silent(Brightness):
    def look(self, own):
        return ""
