"""What Optuna has been told of a search, in search.db of the study's folder: how the same command goes on with it.

case                                              result
a suggestion that ran to its end, or failed       told; it counts
one that its driver did not live to tell          told as failed, and suggested again before any other: what it
                                                  released, or was about to, is used
search.db is gone, the records are not            told what the records say
more `trials` than before                         the search goes on, with other random numbers than it began with
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.study import Study

Objectives = Callable[[Mapping[str, Any]], tuple[float, float]]


class History:
    """The history of one search. name: of the question (sweeps.search.history_name). rows: of trials.jsonl.
    objectives: (FID, ε) of a row. space: {axis: Optuna's distribution}."""

    def __init__(
        self,
        folder: Path,
        name: str,
        space: Mapping[str, Any],
        rows: Iterable[Mapping[str, Any]],
        objectives: Objectives,
    ) -> None:
        import optuna

        self.name = name
        self.storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'search.db'}")
        known = name in optuna.get_all_study_names(self.storage)
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=name,
            directions=["minimize", "minimize"],  # FID, ε
            load_if_exists=True,
        )
        if known:
            _suggest_again(self.study)
        else:
            _tell(self.study, space, rows, objectives)

    def finished(self) -> int:
        """How many suggestions ran to their end. Two may be one trial."""
        import optuna

        return len(self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))

    def begun(self) -> int:
        """How many suggestions there have been: a number that no run of the command has begun with."""
        return len(self.study.get_trials(deepcopy=False))


def _suggest_again(study: Study) -> None:
    """Only one command at a time holds the study's folder: what is running here has lost its driver."""
    import optuna

    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _tell(study: Study, space: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], objectives: Objectives) -> None:
    import optuna

    for row in rows:
        if row["status"] != "done":
            continue
        point = {axis: math.inf if row["axes"].get(axis) == "inf" else row["axes"].get(axis) for axis in space}
        with contextlib.suppress(ValueError):  # of a search over other values
            told = optuna.trial.create_trial(params=point, distributions=dict(space), values=list(objectives(row)))
            study.add_trial(told)
