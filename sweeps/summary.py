"""Work and cost of a study, printed before it starts (`dry_run=true` stops there)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sweeps.plan import PlannedTrial, uncollected
from wavedp import chain
from wavedp.errors import InfeasibleError
from wavedp.privacy import accounting
from wavedp.store import Store


@uncollected()
def describe(trials: list[PlannedTrial], store: Store, infeasible: dict[str, InfeasibleError]) -> str:
    """Trials, unique stages (and how many the store has, or the zoo behind it), private releases and their composed ε,
    as text."""
    feasible = [trial for trial in trials if trial.id not in infeasible]
    lines = [
        f"{len(trials)} trial{'s' * (len(trials) != 1)}"
        + (f", {len(infeasible)} of them infeasible" if infeasible else "")
    ]
    lines.append(f"  {'stage':<15}{'unique':>8}{'in store':>10}{'to make':>9}")
    for stage in chain.CHAIN:
        unique = {trial.keys[stage.name] for trial in feasible if stage.name in trial.keys}
        if not unique and feasible:
            continue
        have = store.which(stage.name, unique)
        zoo = sorted(set(store.origins(stage.name, have).values()))
        lines.append(
            f"  {stage.name:<15}{len(unique):>8}{len(have):>10}{len(unique) - len(have):>9}"
            + (f"  from the zoo: {', '.join(zoo)}" if zoo else "")
        )
    private = private_fits(feasible)
    there = sum(len(store.which(name, {key for stage, key in private if stage == name})) for name in chain.PRIVATE)
    looks = len(_fits(feasible, "nonprivate", "real"))
    lines.append(
        f"private releases: {len(private)} ({len(private) - there} new); non-private uses of the training images: "
        f"{looks}"
    )
    lines += composed_lines(private)
    return "\n".join(lines)


def private_fits(trials: Iterable[PlannedTrial]) -> dict[tuple[str, str], PlannedTrial]:
    """{(stage, key): a trial of it} of every private release that these trials rest on."""
    return _fits(trials, "dp")


def _fits(trials: Iterable[PlannedTrial], *kinds: str) -> dict[tuple[str, str], PlannedTrial]:
    return {
        (stage, trial.keys[stage]): trial
        for trial in trials
        for stage, kind in chain.fit_kinds(trial.config).items()
        if kind in kinds
    }


def composed_lines(private: dict[tuple[str, str], PlannedTrial]) -> list[str]:
    """One line a dataset: ε of each release asked, and of all of them together. private: as `private_fits`."""
    by_dataset: dict[str, list[tuple[str, PlannedTrial]]] = {}
    for (stage, _), trial in private.items():
        by_dataset.setdefault(chain.fingerprint(trial.config.data, "train"), []).append((stage, trial))
    lines = []
    for fingerprint, members in by_dataset.items():
        n_records = chain.n_records(members[0][1].config.data, "train")
        mechanisms = [item for stage, trial in members for item in chain.mechanisms(trial.config, stage).values()]
        delta = max(accounting.delta(trial.config.privacy, n_records) for _, trial in members)
        epsilon = accounting.compose(mechanisms, delta)
        asked = Counter(chain.privacy_of(trial.config, stage).epsilon for stage, trial in members)
        single = ", ".join(f"{e:g}" + (f" ×{count}" if count > 1 else "") for e, count in sorted(asked.items()))
        lines.append(
            f"  dataset {fingerprint[:12]} ({n_records:,} records): ε = {single} each by itself; "
            f"all {len(members)} composed: ε = {epsilon:.3g} at δ = {delta:.3g} (PLD)"
        )
    return lines
