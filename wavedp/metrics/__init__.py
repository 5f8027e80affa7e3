"""What the full-size samples are worth (see `wavedp.metrics.suite`; `python -m wavedp.metrics` for two folders)."""

from __future__ import annotations

from typing import Any

from wavedp.config import DataConfig, MetricsConfig, TrialConfig
from wavedp.fields import identity
from wavedp.methods import Method


def asked(config: MetricsConfig) -> list[Method]:
    """The metrics that a trial is asked for."""
    return []


def reference_content(config: MetricsConfig) -> list[Any]:
    """What the reference reads of its configuration."""
    found: list[Any] = [config.mode, config.precision, config.reference_split, config.reference_samples]
    if config.floor:
        found.append({"floor": config.fid_samples})
    if config.second_network:
        from wavedp.metrics import second_networks  # which imports torch

        found.append({"second_network": second_networks.identity(config)})
    if len(_splits(config)) > 1:
        found.append({"downstream": "test"})
    return found


def content(config: MetricsConfig) -> dict[str, Any]:
    """What `evaluate` reads of its configuration."""
    unread = () if config.downstream == "cnn" else ("downstream_steps",)
    return {name: value for name, value in identity(config).items() if name not in unread}


def reference_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    """What the reference looks at."""
    return [(trial.data, trial.metrics.reference_split)]


def evaluation_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    """A published protocol's classifiers are tested on the test split, whatever FID looks at."""
    return [(trial.data, split) for split in _splits(trial.metrics)]


def _splits(config: MetricsConfig) -> list[str]:
    also = [] if config.downstream == "cnn" else ["test"]
    return list(dict.fromkeys([config.reference_split, *also]))
