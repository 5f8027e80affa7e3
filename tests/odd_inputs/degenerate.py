"""Numbers out of range, and what has no distribution to measure."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from odd_inputs import Odd
from wavedp import checks
from wavedp.config import DataConfig, TrialConfig, from_dict

IMAGES = {"name": "procedural", "size": 16, "n_records": 64}


def asked(folder: Path, **sections: Any) -> TrialConfig:
    """A trial as a sweep composes it, checked."""
    values = {
        "data": IMAGES,
        "public": {**IMAGES, "split": "public"},
        "privacy": {"batch_size": 16, "steps": 2},
        **sections,
    }
    trial: TrialConfig = from_dict(TrialConfig, values)
    checks.check(trial)
    return trial


def the_ends_of_ranges(folder: Path) -> None:
    sampling = {"top_p": 1, "seed": 2**64 - 1, "temperature": 1e-9}
    trial = asked(folder, privacy={"epsilon": "inf", "steps": 1, "batch_size": 1}, sampling=sampling)
    assert (trial.privacy.epsilon, trial.sampling.top_p) == (float("inf"), 1.0)


def one_image(folder: Path) -> None:
    import torch

    from wavedp.metrics.suite import require_variety

    require_variety(torch.full((20, 1, 4, 4), 7, dtype=torch.uint8), torch.arange(20) % 10)


def accuracy_of_one_class(folder: Path) -> None:
    from wavedp.metrics import Given, check

    check(Given(TrialConfig().metrics, lambda split: 2000, 1000, n_classes=1))


def nothing_but_nan(folder: Path) -> None:
    import torch

    from wavedp.finite import require_finite

    require_finite({"images": torch.full((2, 1, 4, 4), float("nan"))}, "samples of generator=mine", "mend it")


def a_size_of_16_point_0(folder: Path) -> None:
    checks.check(TrialConfig(data=DataConfig(**{**IMAGES, "size": 16.0})))


CASES = [
    Odd("a temperature of 0", partial(asked, sampling={"temperature": 0}), ("sampling.temperature=0", "above 0")),
    Odd("no token to choose from", partial(asked, sampling={"top_k": 0}), ("sampling.top_k=0", "at least 1")),
    Odd("a seed of 65 bits", partial(asked, seed=2**64), ("seed=18446744073709551616", "below")),
    Odd("a level of a million", partial(asked, level=10**6), ("level=1000000", "at most 16")),
    Odd("a learning rate of NaN", partial(asked, privacy={"learning_rate": "nan"}), ("privacy.learning_rate=nan",)),
    Odd("an infinite clipping norm", partial(asked, privacy={"max_grad_norm": "inf"}), ("max_grad_norm=inf", "finite")),
    Odd("yes for a number", partial(asked, privacy={"steps": True}), ("privacy.steps=True must be int, not bool",)),
    Odd("fewer than no reference images", partial(asked, metrics={"reference_samples": -3}), ("samples=-3", "least 2")),
    Odd("an option of a metric out of range", partial(asked, metrics={"also": [{"name": "prdc", "k": 0}]}), ("k=0",)),
    Odd("a size that is no whole number", a_size_of_16_point_0, ("data.size=16.0 must be int, not float",)),
    Odd("the ends of ranges", the_ends_of_ranges),
    Odd("twenty times one image", one_image, ("20 samples of 10 classes hold 1 distinct image",)),
    Odd("accuracy of one class", accuracy_of_one_class, ("one class", "metrics.downstream_steps=0")),
    Odd("images of NaN", nothing_but_nan, ("samples of generator=mine", "32 of 32 numbers")),
]
