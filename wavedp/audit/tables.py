"""The rows of audit.jsonl as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from wavedp.audit.report import KINDS, Row

COLUMNS = (
    ("step", "Clopper-Pearson"), ("step", "Gaussian"), ("subsampled step", "Clopper-Pearson"), ("fit", "one run"),
    ("fit", "one run, Gaussian"), ("fit", "Clopper-Pearson"), ("fit", "Gaussian"),
)  # fmt: skip


def tables(rows: Sequence[Row]) -> str:
    """The bounds by claim, the attacks on released weights, and what rejected each sabotage."""
    about, settings = rows[0], rows[0]["settings"]
    of = [row for row in rows if row["kind"] == "bound"]
    lines = [
        f"Lower bounds on ε ({about['confidence']:.0%}, one-sided) at δ = {about['delta']:g}: {2 * settings['draws']} "
        f"draws of a step, {settings['canaries']} canaries in a white-box fit, {settings['attack']['canaries']} and "
        f"{about['records']} images against released weights.",
        f"{'':>6} {'':>7} | {'one step':<21} | {'white-box fit':<30} | released weights",
        f"{'claim':>6} {'PLD':>7} | {'CP':>6} {'Gauss':>7} {'CP q<1':>6} | {'one-run':>7} {'f-DP':>7} {'CP':>6} "
        f"{'Gauss':>7} | canaries, images (calibrated)",
    ]
    for claim in (*settings["claims"], "inf"):
        mine = [row for row in of if row["claim"] == claim]
        cells = []
        for part, bound in COLUMNS:
            (found,) = [row["low"] for row in mine if (row["part"], row["bound"]) == (part, bound)] or [None]
            cells.append("–" if found is None else f"{found:.2f}")
        spent = next((f"{row['spent']:.4f}" for row in mine if row["part"] == "fit"), "inf")
        # One score, chosen in advance: the best of three would not be a 95 % bound.
        chosen = {row["records"]: row["low"] for row in mine if row.get("score") == "calibrated"}
        seen = [chosen[kind] for kind in reversed(KINDS)]
        name = claim if claim == "inf" else f"{claim:g}"
        first, second = (
            " ".join(f"{c:>{w}}" for c, w in zip(cells[:3], (6, 7, 6), strict=True)),
            " ".join(f"{c:>{w}}" for c, w in zip(cells[3:], (7, 7, 6, 7), strict=True)),
        )
        lines.append(f"{name:>6} {spent:>7} | {first} | {second} | {seen[0]:.2f}, {seen[1]:.2f}")
    lines += ["", "Attacks on released weights: AUC, TPR at 1 % and 0.1 % FPR [95 % intervals, bootstrap]"]
    for row in rows:
        if row["kind"] == "attack":
            auc, one, tenth = (
                "{:.3f} [{:.3f}, {:.3f}]".format(*row[n]) for n in ("auc", "tpr_at_0.01", "tpr_at_0.001")
            )
            lines.append(f"{row['claim']!s:>6} {row['records']:>8} {row['score']:<10} {auc}  {one}  {tenth}")
    for row in rows:
        if row["kind"] == "nearest":
            lines.append(
                f"{row['claim']!s:>6} nearest of {row['samples']} samples: member at {row['distance_to_members']:.4f}, "
                f"other at {row['distance_to_others']:.4f}, ratio {row['ratio']:.4f}, difference "
                f"{row['difference']:.4f} (by chance {row['chance_low']:.4f} to {row['chance_high']:.4f}; "
                f"p = {row['p_value']:.3f})"
            )
    lines += [
        "",
        f"Sabotage, at ε = {settings['suite']['epsilon']:g} (the fit as it is must pass, each sabotage must not)",
    ]
    for row in rows:
        if row["kind"] == "sabotage":
            verdict = f"rejected by {row['by']}" if row["rejected"] else "passes"
            lines.append(f"{row['sabotage'] or 'the fit as it is':>24}  {verdict}")
    lines.append(
        f"An honest product fails this audit at no more than {about['false_alarm']:.0%} of the seeds. "
        "A bound of 0 is no evidence of privacy."
    )
    return "\n".join(lines)
