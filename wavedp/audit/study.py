"""Membership inference on a trial of a finished study whose artifacts are still in the store.

    python -m wavedp.audit.study runs/<study> --trial ID [--store .wavedp/store] [--home .wavedp/data]

Members are the first records of the train split, others those of the test split: what tells the splits apart by itself
counts as membership here, which the coins of wavedp.audit.membership avoid. Scores are that module's, made of the
log-likelihoods that the generator's model gives (`wavedp.generators.Scores`).

Writes membership.jsonl: a line for each score and one for the distances of the trial's coarse samples. Scores of
records are looks without noise. Their line goes to membership_ledger.jsonl, because ledger.jsonl has a single writer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavedp import data, methods, stages
from wavedp.audit.bounds import Scores
from wavedp.audit.membership import auc, nearness, tpr_at
from wavedp.command import command
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.finished import open_trial
from wavedp.generators import Pretrains
from wavedp.generators import Scores as GivesScores
from wavedp.jsonl import read_jsonl
from wavedp.privacy import ledger
from wavedp.store import Artifact, Store, write_jsonl
from wavedp.wavelets import coarse

STAGES = ("tokenizer", "pretrain", "private_fit", "coarse_samples")


def reopen(folder: Path, trial_id: str, store: Store, home: str | None) -> tuple[TrialConfig, dict[str, Artifact]]:
    """The configuration of a finished trial, and its artifacts in the store, by stage.

    Raises UserError for a folder without a study, for a trial that is not finished or that today's code gives another
    key, and for missing artifacts.
    """
    finished = open_trial(folder, trial_id, home)
    finished.require_same_keys(STAGES)
    return finished.config, {stage: finished.artifact(stage, store) for stage in STAGES}


def measure(trial: TrialConfig, artifacts: dict[str, Artifact], count: int) -> list[dict[str, Any]]:
    """A row for each score and one of distances. count: members and others, at most. Raises UserError for a generator
    that is not fitted or gives no log-likelihoods, or conditions other than classes."""
    method, generator = methods.generator(trial), stages.build_generator(trial, artifacts, "cpu")
    conditioning, kind = method.conditioning(trial), method.fit_kind(trial)
    if not isinstance(generator, GivesScores) or conditioning != "class" or kind not in ("dp", "nonprivate"):
        raise UserError(
            f"generator.name={trial.generator.name} with conditioning={conditioning} and a fit of kind {kind} is not "
            "attacked: name a trial with classes whose generator is fitted to sensitive images and gives "
            "log-likelihoods, such as spectral_ar."
        )
    weights, public = (artifacts[stage].tensors("weights") for stage in ("private_fit", "pretrain"))
    found: dict[str, list[np.ndarray]] = {"loss": [], "guidance": [], "calibrated": []}
    kept = []
    for split in ("train", "test"):
        records = data.load(dataclasses.replace(trial.data), split)  # type: ignore[arg-type]
        images = coarse(torch.tensor(records.images[:count]).float() / 255, trial.level)
        labels = torch.tensor(records.labels[:count])
        own, without = generator.log_likelihoods(weights, images, labels)
        found["loss"].append(own)
        found["guidance"].append(own - without)
        if isinstance(generator, Pretrains):
            before, _ = generator.log_likelihoods(generator.start(public), images, labels)
            found["calibrated"].append(own - before)
        kept.append(images)
    rows: list[dict[str, Any]] = []
    for name, values in found.items():
        if values:
            scores = Scores(*values)
            estimates = {"auc": auc(scores), "tpr_at_0.01": tpr_at(scores, 0.01), "tpr_at_0.001": tpr_at(scores, 0.001)}
            rounded = {key: [round(x, 4) for x in asdict(item).values()] for key, item in estimates.items()}
            rows.append({"kind": "attack", "score": name, "members": len(kept[0]), "others": len(kept[1]), **rounded})
    samples = artifacts["coarse_samples"].tensors("samples")["images"]
    near = {name: round(value, 5) for name, value in nearness(samples, *kept).items()}
    return [*rows, {"kind": "nearest", **near}]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module. Exit status 2 for a UserError."""
    parser = argparse.ArgumentParser(prog="python -m wavedp.audit.study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=Path, help="runs/<study>")
    parser.add_argument("--trial", required=True, help="its id in trials.jsonl")
    parser.add_argument("--store", default=".wavedp/store", help="where the study's artifacts are (.wavedp/store)")
    parser.add_argument("--home", help="where the data is (what study.yaml says)")
    parser.add_argument("--records", type=int, default=2000, help="members and others, at most (2000)")
    chosen = parser.parse_args(arguments)
    if chosen.records < 20:
        raise UserError(f"records={chosen.records} are too few to tell anything: use 20 or more.")
    trial, artifacts = reopen(chosen.study, chosen.trial, Store(chosen.store), chosen.home)
    look = ledger.line_nonprivate(
        f"membership scores of {chosen.records} train and test records",
        dataset=data.fingerprint(trial.data, "train"),
        n_records=data.n_records(trial.data, "train"),
        stage_key=artifacts["private_fit"].key,
        trials=[chosen.trial],
    )
    rows = [{"trial": chosen.trial, **row} for row in measure(trial, artifacts, chosen.records)]
    path = chosen.study / "membership_ledger.jsonl"
    known = ledger.read(path) if path.is_file() else []
    lines = {(line["purpose"], line["stage_key"]): line for line in [*known, look]}
    write_jsonl(path, lines.values())  # before what the look has shown
    others = chosen.study / "membership.jsonl"
    rows_there = read_jsonl(others) if others.is_file() else []
    before = [row for row in rows_there if row["trial"] != chosen.trial]
    write_jsonl(others, [*before, *rows])
    for row in rows:
        print(json.dumps(row))
    print(f"An AUC near 0.5 is no evidence of privacy. No ε covers these scores: their line is in {path}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
