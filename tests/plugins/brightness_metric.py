"""A metric in one file: how far the mean pixel is from that of real images."""

from dataclasses import dataclass

from wavedp.fields import result
from wavedp.metrics import MetricMethod


@dataclass(frozen=True)
class BrightnessConfig:
    """Nothing to set."""

    name: str = result("brightness")


class Brightness(MetricMethod):
    """The declaration, and what it measures."""

    name, Config, better = "brightness", BrightnessConfig, "lower"
    sentence = "difference of the mean pixels, of 255, {generated} generated against {real}"

    def look(self, own):
        """Named in the ledger."""
        return "mean pixel"

    def reference(self, own, real):
        """One number of the real images."""
        return {"brightness.mean": _mean(real.images)}

    def measure(self, own, sets, reference):
        """In grey levels."""
        value = abs(_mean(sets.samples) - reference["brightness.mean"])
        return {self.names(own, sets)["brightness"]: float(value)}


def _mean(view):
    return sum(chunk.double().mean((1, 2, 3)).sum() for _, chunk in view.stream()) / view.count
