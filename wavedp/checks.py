"""Checks of a trial before anything runs, from its configuration and its data only.

Each method checks what is its own. Weight files are not opened: `stages.check_models` does that, before training.
Nothing here imports torch for trials with scalar tokens at one level.
"""

from __future__ import annotations

import math

from wavedp import data, methods
from wavedp.chain import fit_kind, mechanisms, n_records
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.levels import check_level
from wavedp.privacy import accounting


def check(trial: TrialConfig) -> list[str]:
    """Check the configuration and the data, before any work. Returns warnings, one sentence each.

    Raises UserError (InfeasibleError for a budget no noise meets) with one sentence of cause and one of remedy, for a
    setting that none of the trial's methods reads too.
    """
    methods.generator(trial)
    if math.isnan(trial.privacy.epsilon) or trial.privacy.epsilon < 0:
        raise UserError(
            f"privacy.epsilon={trial.privacy.epsilon} is not a budget: use a number above 0, inf for no privacy, or 0 "
            "for the public model as it is."
        )
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
    if fit_kind(trial) in ("dp", "nonprivate"):
        mechanisms(trial)
        warned += accounting.check_delta(trial.privacy, n_records(trial.data, "train"))
    return list(dict.fromkeys(warned))
