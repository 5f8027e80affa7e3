"""The rows of studies that are steps of a waterfall (analysis.waterfall), by their configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from analysis import recorded
from analysis.load import Study, Trial
from analysis.recorded import Flat, configuration, key
from wavedp import methods
from wavedp.config import TrialConfig

Kind = Literal["floor", "detail", "tokens", "generator", "privacy"]


@dataclass(frozen=True)
class Row:
    """A finished trial with what tells its place. None: whole images have no upscaler, a generator may have no tokens,
    real images have no fit."""

    trial: Trial
    config: TrialConfig
    kind: Kind
    data: Flat
    upscaler: Flat | None
    tokens: Flat | None
    fit: Flat | None

    @property
    def place(self) -> str:
        """Of the chain's real coarse images."""
        return key(self.data, self.config.level, self.upscaler)

    @property
    def epsilon(self) -> float:
        return float(self.config.privacy.epsilon)


def rows_of(studies: Sequence[Study]) -> list[Row]:
    """Finished trials that are a step of some chain: not the anchor without private data, nor rows whose configuration
    is not recorded."""
    found = []
    for study, trial in ((each, trial) for each in studies for trial in each.done):
        config = configuration(study, trial)
        kind = None if config is None else _kind(config)
        if config is None or kind is None:
            continue
        whole = config.level == 0 and config.upscaler.name == "identity"
        found.append(
            Row(
                trial,
                config,
                kind,
                recorded.data_of(config),
                None if whole else recorded.method_of(config, "upscaler"),
                recorded.method_of(config, "tokenizer") if _has_tokens(config) else None,
                recorded.fit_of(config) if kind in ("generator", "privacy") else None,
            )
        )
    return found


def _kind(config: TrialConfig) -> Kind | None:
    fit = methods.generator(config).fit_kind(config)
    if fit == "real":
        if _has_tokens(config):
            return "tokens"
        return "floor" if config.level == 0 and config.upscaler.name == "identity" else "detail"
    found: dict[str, Kind] = {"nonprivate": "generator", "dp": "privacy"}
    return found.get(fit)


def _has_tokens(config: TrialConfig) -> bool:
    """True if the coarse images have been codes. An upscaler may have tokens of its own, which are its business."""
    return "tokenizer" in methods.needs(config, methods.generator(config)).fields
