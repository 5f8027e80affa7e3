"""Run all parts of the audit, as rows for audit.jsonl and roc.jsonl.

    step       one step of clipping and noise, 2 N draws                          wavedp.audit.mechanism
    fit        1000 canaries and more in one private fit, white box               wavedp.audit.canaries
    released   the weights that a study would release, black box                  wavedp.audit.membership
    suite      the same fit under sabotage                                        wavedp.audit.sabotage

Each bound is stated at a confidence of 95 %. The verdict does not use these: among dozens of bounds, some would exceed
a tight claim by chance. For the verdict, bounds are recomputed at a stricter confidence, so that together they raise a
false alarm with probability at most FALSE_ALARM. The suite's evidence about the honest fit has another FALSE_ALARM, so
an honest fit is accused for at most 2 % of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from wavedp.audit import bounds, membership, sabotage
from wavedp.audit.bounds import Scores
from wavedp.audit.canaries import audited_fit
from wavedp.audit.mechanism import draw_steps
from wavedp.audit.membership import AttackSetting, Pool
from wavedp.errors import UserError
from wavedp.full_precision import Precision
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import Report

CONFIDENCE = 0.95
FALSE_ALARM = 0.01
"""Probability that an honest fit fails by the table of bounds, and the same again by the suite."""

KINDS = ("images", "canaries")
BOUNDS_PER_CLAIM = 3 + 4 + len(KINDS) * len(membership.SCORES)
RELATIVE = 1e-3  # tolerance: PLD rounds up to a grid, and calibration stops at four digits

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """claims: the ε of each, at delta. canaries, steps: of the white-box fit, which takes every record at every step,
    so that the claim is exactly that of a Gaussian mechanism. step_rate: q of the subsampled step. draws: N of each
    step. precision: of the gradients, in every part."""

    claims: tuple[float, ...] = (1.0, 4.0, 10.0)
    delta: float = 1e-5
    canaries: int = 1000
    steps: int = 4
    step_rate: float = 0.1
    draws: int = 200_000
    companions: int = 256
    seed: int = 0
    precision: Precision = "float32"
    attack: AttackSetting = field(default_factory=AttackSetting)
    suite: sabotage.Setting = field(default_factory=sabotage.Setting)

    def check(self) -> None:
        """Raise UserError for settings that allow no audit."""
        for epsilon in self.claims:
            if not 0 < epsilon <= bounds.LARGEST_EPSILON:
                raise UserError(f"epsilon={epsilon:g} cannot be audited: use claims in 0 < epsilon <= 100.")
        if len(set(self.claims)) < len(self.claims) or not self.claims:
            raise UserError(f"epsilon={list(self.claims)} names a claim twice, or none: name each once.")
        for name, value, least in (
            ("canaries", self.canaries, 100),
            ("steps", self.steps, 1),
            ("draws", self.draws, 1000),
        ):
            if value < least:
                raise UserError(f"{name}={value} is too few for a bound to say anything: use {least} or more.")
        accounting.valid_delta(self.delta)


@dataclass(frozen=True)
class Result:
    """rows: of audit.jsonl, `about` first. curves: of roc.jsonl. failures: one sentence each; empty if all is well.
    released: (purpose, mechanism, number of records) of every fit on the images."""

    rows: list[Row]
    curves: list[Row]
    failures: list[str]
    released: list[tuple[str, Mechanism, int]]


def run(settings: Settings, pool: Pool, about: Row, progress: Callable[[str], Report]) -> Result:
    """Run the whole audit. progress: takes the name of a part and gives the report that follows it."""
    settings.check()
    rows: list[Row] = []
    curves: list[Row] = []
    released: list[tuple[str, Mechanism, int]] = []
    for claim in settings.claims:
        rows += _step_bounds(claim, settings, curves)
        rows += _fit_bounds(claim, settings, pool, curves, released, progress(f"white-box fit at ε = {claim:g}"))
    for claim in (*settings.claims, math.inf):
        rows += _attack(claim, settings, pool, curves, released, progress(f"released fit at ε = {claim:g}"))
    findings = sabotage.suite(
        pool.images[:64], pool.labels[:64], FALSE_ALARM, settings.seed, settings.suite, report=progress("sabotages")
    )
    rows += [_finding_row(finding) for finding in findings]
    failures = failures_of(rows, findings)
    head = {"kind": "about", **about, "delta": settings.delta, "confidence": CONFIDENCE, "false_alarm": 2 * FALSE_ALARM}
    return Result(
        [head | {"settings": _plain(asdict(settings)), "failures": failures}, *rows], curves, failures, released
    )


def failures_of(rows: list[Row], findings: list[sabotage.Finding]) -> list[str]:
    """One sentence for each bound above its claim and for each unexpected finding."""
    above = [row for row in rows if row["kind"] == "bound" and row["exceeds"]]
    return [
        f"{row['part']}, {row['bound']}: the bound {row['low_verdict']:.3g} exceeds the claim {row['claim']:.3g}."
        for row in above
    ] + [
        f"the honest fit is rejected: {finding.rejection}."
        if finding.sabotage is None
        else f"{finding.sabotage}: not rejected."
        for finding in findings
        if not finding.expected
    ]


def _step_bounds(claim: float, settings: Settings, curves: list[Row]) -> list[Row]:
    rows = []
    for rate in (1.0, settings.step_rate):
        mechanism = Mechanism(rate, accounting.calibrate(claim, settings.delta, rate, 1), 1)
        scores = draw_steps(mechanism, settings.draws, settings.seed, precision=settings.precision).scores
        spent = accounting.compose([mechanism], settings.delta)
        about = _about("step" if rate == 1 else "subsampled step", claim, spent, mechanism)
        mu = 1 / mechanism.noise_multiplier

        def epsilon_low(confidence: float, scores: Scores = scores, mu: float = mu, rate: float = rate) -> float:
            best = bounds.best_thresholds(mu, settings.draws, settings.delta, confidence, rate)
            return bounds.clopper_pearson(scores, best.epsilon, settings.delta, confidence)

        def gaussian_low(confidence: float, scores: Scores = scores, mu: float = mu) -> float:
            best = bounds.best_thresholds(mu, settings.draws, settings.delta, confidence)
            return bounds.gaussian(scores, best.mu, settings.delta, confidence)

        rows.append(_bound_row(about | {"draws": settings.draws}, "Clopper-Pearson", epsilon_low, settings))
        if rate == 1:
            rows.append(_bound_row(about | {"draws": settings.draws}, "Gaussian", gaussian_low, settings))
            curves.append(_curve("step", claim, scores))
    return rows


def _fit_bounds(
    claim: float,
    settings: Settings,
    pool: Pool,
    curves: list[Row],
    released: list[tuple[str, Mechanism, int]],
    report: Report,
) -> list[Row]:
    delta = settings.delta
    fit = audited_fit(
        pool.images[: settings.companions],
        pool.labels[: settings.companions],
        epsilon=claim,
        delta=delta,
        canaries=settings.canaries,
        rate=1.0,
        steps=settings.steps,
        seed=settings.seed,
        coins=settings.seed,
        precision=settings.precision,
        report=report,
    )
    released.append(("audit, white-box fit", fit.mechanism, fit.n_records))
    scores, m, mu = fit.scores, settings.canaries, bounds.mu_of(claim, delta)
    curves.append(_curve("fit", claim, scores))
    about = _about("fit", claim, fit.epsilon, fit.mechanism) | {"canaries": m, "included": len(scores.included)}

    def of_test(bound: Callable[..., float], which: int) -> Callable[[float], float]:
        def low(confidence: float) -> float:
            threshold = bounds.best_thresholds(mu, m // 2, delta, confidence)[which]
            return bound(scores, threshold, delta, confidence)

        return low

    return [
        _bound_row(about, "one run", lambda confidence: _one_run(scores, mu, delta, confidence), settings),
        _bound_row(
            about, "one run, Gaussian", lambda confidence: _one_run_gaussian(scores, mu, delta, confidence), settings
        ),
        _bound_row(about, "Clopper-Pearson", of_test(bounds.clopper_pearson, 0), settings),
        _bound_row(about, "Gaussian", of_test(bounds.gaussian, 1), settings),
    ]


def _attack(
    claim: float,
    settings: Settings,
    pool: Pool,
    curves: list[Row],
    released: list[tuple[str, Mechanism, int]],
    report: Report,
) -> list[Row]:
    found = membership.attack(pool, claim, settings.delta, settings.attack, settings.seed, report)
    released.append(("audit, released fit", found.mechanism, found.n_records))
    mu = bounds.mu_of(min(claim, 10.0), settings.delta)
    rows: list[Row] = []
    for (kind, name), scores in found.scores.items():
        about = _about("released", claim, found.spent, found.mechanism)
        about |= {"records": kind, "score": name, "canaries": scores.m, "included": len(scores.included)}

        def low(confidence: float, scores: Scores = scores) -> float:
            return _one_run(scores, mu, settings.delta, confidence)

        rows.append(_bound_row(about, "one run", low, settings))
        estimates = {"auc": membership.auc(scores)} | {
            f"tpr_at_{fpr:g}": membership.tpr_at(scores, fpr) for fpr in (0.01, 0.001)
        }
        rows.append(
            about | {"kind": "attack", "claim": _number(claim)}
            | {name: [round(value, 4) for value in asdict(item).values()] for name, item in estimates.items()}
        )  # fmt: skip
        curves.append(_curve(f"{kind}, {name}", claim, scores))
    near = {name: round(value, 5) for name, value in found.nearest.items()}
    return [*rows, {"kind": "nearest", "claim": _number(claim), **near}]


def _one_run(scores: Scores, mu: float, delta: float, confidence: float) -> float:
    guesses = bounds.best_guesses(mu, scores.m, delta, confidence).epsilon
    return bounds.one_run(scores.m, guesses, bounds.right_guesses(scores, guesses), delta, confidence)


def _one_run_gaussian(scores: Scores, mu: float, delta: float, confidence: float) -> float:
    guesses = bounds.best_guesses(mu, scores.m, delta, confidence).mu
    return bounds.one_run_gaussian(scores.m, guesses, bounds.right_guesses(scores, guesses), delta, confidence)


def _about(part: str, claim: float, spent: float, mechanism: Mechanism) -> Row:
    ran = {name: getattr(mechanism, name) for name in ("sample_rate", "noise_multiplier", "steps")}
    return {"kind": "bound", "part": part, "claim": claim, "spent": _number(spent), **ran}


def _bound_row(about: Row, bound: str, low: Callable[[float], float], settings: Settings) -> Row:
    """A row of one bound. low: gives the bound at a confidence. `exceeds`: true if the bound at the verdict's
    confidence is above the claim."""
    claim = about["claim"]
    verdict = 1 - FALSE_ALARM / (BOUNDS_PER_CLAIM * len(settings.claims))
    at_verdict = low(verdict)
    return {
        **about,
        "claim": _number(claim),
        "bound": bound,
        "low": round(low(CONFIDENCE), 4),
        "low_verdict": round(at_verdict, 4),
        "verdict_confidence": round(verdict, 6),
        "exceeds": at_verdict > claim * (1 + RELATIVE),
    }


def _finding_row(finding: sabotage.Finding) -> Row:
    return {
        "kind": "sabotage",
        "sabotage": finding.sabotage,
        "rejected": finding.rejection is not None,
        "by": str(finding.rejection) if finding.rejection else None,
        "evidence": [asdict(item) for item in finding.evidence],
    }


def _curve(name: str, claim: float, scores: Scores) -> Row:
    fpr, tpr = membership.roc(scores)
    return {"curve": name, "claim": _number(claim), "n": scores.m, "fpr": fpr, "tpr": tpr}


def _number(value: float) -> float | str:
    """The rounded value, or "inf", since JSON has no infinity."""
    return "inf" if math.isinf(value) else round(value, 6)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def quick(settings: Settings) -> Settings:
    """The same audit in miniature: minutes become seconds, bounds become loose."""
    return replace(
        settings,
        canaries=min(settings.canaries, 300),
        draws=min(settings.draws, 20_000),
        companions=32,
        attack=replace(settings.attack, canaries=100, samples=50, steps=4, pretrain_steps=2),
        suite=replace(settings.suite, canaries=200, draws=20_000, steps=4),
    )
