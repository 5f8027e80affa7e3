"""wavedp: two-stage, coarse-to-fine image generation under differential privacy.

The science of a study: what one trial does. It imports neither ray nor hydra; `sweeps` runs many trials of it.

    import wavedp

    run = wavedp.run(wavedp.TrialConfig(upscaler="bicubic"))
    run.samples, run.coarse, run.metrics, run.epsilon, run.ledger
"""

from typing import Any

_FROM_CONFIG = (
    "DataConfig", "DiffusionConfig", "MetricsConfig", "PrivacyConfig", "SamplingConfig", "TrialConfig", "configure",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use: `import wavedp` costs nothing."""
    import importlib

    if name in _FROM_CONFIG:
        return getattr(importlib.import_module("wavedp.config"), name)
    if name in ("run", "data"):
        return importlib.import_module(f"wavedp.{name}")
    raise AttributeError(f"module 'wavedp' has no attribute {name!r}")
