"""Distance of the power spectrum of generated images from that of real ones, in octaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavedp.fields import result
from wavedp.metrics import MetricMethod
from wavedp.metrics.views import Real, Sets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SpectrumConfig:
    """Nothing to set."""

    name: str = result("spectrum")


class Spectrum(MetricMethod):
    """Root mean square over bands of log2 of the ratio of mean powers (wavedp.metrics.power_spectrum); 0 for equal
    spectra."""

    name, Config, better = "spectrum", SpectrumConfig, "lower"
    sentence = "octaves between radial power spectra, {generated} generated against {real}"

    def look(self, own: Any) -> str:
        """Mean power of each band."""
        return "power spectrum"

    def reference(self, own: Any, real: Real) -> dict[str, Tensor]:
        """spectrum.powers: float64 F, the mean power of each band. Raises UserError for images of several sizes."""
        from wavedp.metrics.power_spectrum import mean_powers

        return {"spectrum.powers": mean_powers(real.images)}

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """In octaves. Raises UserError for sets of different or mixed sizes."""
        from wavedp.metrics.power_spectrum import mean_powers, octaves_apart

        value = octaves_apart(mean_powers(sets.samples), reference["spectrum.powers"])
        return {self.names(own, sets)["spectrum"]: value}


if __name__ == "__main__":
    from wavedp.moved import run_moved

    run_moved("wavedp.metrics.spectrum", "wavedp.reports.spectrum")
