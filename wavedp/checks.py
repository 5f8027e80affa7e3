"""Checks of a trial before anything runs, from its configuration and its data only.

Each method checks what is its own. Weight files are not opened: `wavedp.model_checks` does that, before training.
Nothing here imports torch for trials with scalar tokens at one level.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from wavedp import data, methods
from wavedp.chain import NAMES, fit_kinds, mechanisms, missing_images, n_records, public_reads
from wavedp.config import TrialConfig
from wavedp.data import duplicates, overlap, seen
from wavedp.errors import UserError
from wavedp.fields import check_values
from wavedp.levels import check_level
from wavedp.privacy import accounting
from wavedp.store import Store


def check(trial: TrialConfig) -> list[str]:
    """Check the values of the configuration, and the data, before any work. Returns warnings, one sentence each.

    Raises UserError (InfeasibleError for a budget no noise meets) with one sentence of cause and one of remedy, for a
    setting that none of the trial's methods reads too.
    """
    check_values(trial)
    trial = replace(trial, public=methods.public_of(trial))
    for field, value in methods.unread(trial):
        raise UserError(methods.unread_sentence(trial, field, value))
    channels, height, width = data.shape(trial.data)
    check_level(trial.level, height, width)
    if trial.public is not None and data.shape(trial.public) != (channels, height, width):
        raise UserError(
            f"public images are {data.shape(trial.public)} (C, H, W), sensitive ones {(channels, height, width)}: "
            "set public.size and public.channels to match."
        )
    chosen = [methods.generator(trial), methods.upscaler(trial)]
    if methods.reads(trial, "tokenizer"):
        chosen.insert(0, methods.tokenizer(trial))
    warned = [sentence for method in chosen for sentence in method.check(trial)]
    if chosen[-2].conditioning(trial) == "text" and trial.metrics.downstream_steps:
        raise UserError(
            "metrics.downstream_steps needs class labels, which images made from prompts lack: set it to 0."
        )
    overlap.refuse_shared(trial.data, public_reads(trial))
    kinds = fit_kinds(trial)
    if "dp" in kinds.values():
        warned += duplicates.check(trial.data)
    if {"dp", "nonprivate"} & set(kinds.values()):
        for stage in kinds:
            mechanisms(trial, stage)
        warned += accounting.check_delta(trial.privacy, n_records(trial.data, "train"))
        warned += overlap.warn_of_known_test(trial.data, trial.metrics.reference_split)
        models = {name: sets for each in chosen for name, sets in each.seen(trial).items()}
        warned += seen.warn(trial.data, models, trial.public if public_reads(trial) else None)
    return list(dict.fromkeys(warned))


def check_images(trial: TrialConfig, store: Store, stages: Collection[str] = NAMES) -> None:
    """Raises UserError for a stage that neither the store nor the zoo behind it has, and whose images are not here:
    a key can be made of facts about them, a model cannot. stages: those that are to be made."""
    for stage, key, config in missing_images(trial, store.has):
        if stage not in stages:
            continue
        try:
            data.require_images(config)
        except UserError as error:
            raise UserError(
                f"{stage} {key[:12]} is in neither {store.root} nor the zoo and has to be made, but {error}"
            ) from None
