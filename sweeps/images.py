"""The images of a study on the nodes of a cluster: sent through the store where data.ship or public.ship says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from wavedp import chain, data, methods
from wavedp.config import DataConfig, TrialConfig
from wavedp.data import travel
from wavedp.data.travel import Sent
from wavedp.store import Store


def send(trials: Iterable[TrialConfig], store: Store) -> dict[DataConfig, Sent]:
    """Put the datasets that the trials read, and that may travel, into the store, each once; where they lie there.

    Raises UserError for sensitive images that would lie open in the store.
    """
    found: dict[DataConfig, Sent] = {}
    for trial in trials:
        for config in _read(trial):
            asked = travel.asked(config)
            if config.ship and asked not in found and _could_travel(config):
                found[asked] = travel.send(config, store, sensitive=config == trial.data)
    return found


def at_hand(trial: TrialConfig, store: Store, sent: Mapping[DataConfig, Sent]) -> TrialConfig:
    """The trial, its images in a home on this machine where they were sent and their files are not here.

    Raises UserError for what is not what was sent.
    """
    if not sent:
        return trial
    trial = replace(trial, data=travel.here(trial.data, store, sent))
    public = methods.public_of(trial)
    if trial.public is None or public is None:
        return trial
    return replace(trial, public=replace(trial.public, home=travel.here(public, store, sent).home))


def kept_home(trial: TrialConfig) -> list[str]:
    """The sections whose images could be sent from here, and are not."""
    sections = {"data": trial.data, "public": methods.canonical(trial).public}
    read = _read(trial)
    return [name for name, config in sections.items() if config in read and not config.ship and _could_travel(config)]


def hint(trial: TrialConfig, kept: Sequence[str]) -> str:
    """Of these sections of a trial those whose images this machine lacks, as a sentence that says how they come; ""
    where it has all."""
    lacking = [f"{name}.ship=true" for name in kept if not data.has_images(getattr(trial, name))]
    return f"Or let the driver send them through the store: {' '.join(lacking)}." if lacking else ""


def _read(trial: TrialConfig) -> list[DataConfig]:
    """Of the trial's two datasets those that a stage reads, or has in its key."""
    trial = methods.canonical(trial)
    read = {config for stage in chain.chain_of(trial) for config, _ in (*stage.reads(trial), *stage.named(trial))}
    return [config for config in (trial.data, trial.public) if config in read]


def _could_travel(config: DataConfig) -> bool:
    """Computed images need not travel, and those that are not here cannot."""
    return chain.has_images(config) and data.is_stored(config)
