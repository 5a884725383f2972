"""The answer in plain words: sentences that follow from the rows, each with its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from orchestrator.analysis.aggregate import Difference, Setting, between
from orchestrator.analysis.pareto import best_under
from orchestrator.analysis.rankings import Contest, contests, ranked, smallest_difference
from orchestrator.analysis.sensitivity.factors import SEED_NOISE, Importance
from orchestrator.report import formatting as wording
from orchestrator.report.data import FEWEST_SEEDS, ReportData, is_dense

ALPHA = 0.05
OFF_TARGET = 0.02
"""A share removed that is further from the one asked for is told."""
BEYOND, WITHIN = "more than the seeds' noise", "not told apart from the seeds' noise"
_SHOWN = 4
_EXPLAINED = 0.1
"""Of the variance; with less, the order of the parameters is chance."""


@dataclass(frozen=True)
class Answer:
    """What the sweep says, and what it cannot say."""

    headline: str
    findings: tuple[str, ...]
    limits: tuple[str, ...]
    best: Setting | None
    contests: tuple[Contest, ...]


def answer(evidence: ReportData, importances: Sequence[Importance]) -> Answer:
    """The sentences a report opens with.

    Raises:
        Unpairable: a setting holds a seed twice.
    """
    metric = evidence.metric
    held = tuple(contests(evidence.candidates, metric, evidence.choice, evidence.direction))
    best = best_setting(evidence)
    if best is None:
        headline = f"No setting can be named best: no finished trial has a value of {_called(metric)}" + (
            " within the constraints." if evidence.space.constraints else "."
        )
        return Answer(headline, (), tuple(_limits(evidence, held)), None, held)
    findings = [
        _beside_dense(evidence, best),
        _beside_control(evidence, best),
        _beside_runner_up(evidence, best),
        *_by_target(held, evidence),
    ]
    findings.append(_knob(importances, metric))
    return Answer(
        _headline(evidence, best), tuple(f for f in findings if f), tuple(_limits(evidence, held)), best, held
    )


def best_setting(evidence: ReportData) -> Setting | None:
    """The setting with the best mean of what settings are chosen by, within the constraints of the search space."""
    constraints = evidence.space.constraints
    rows = []
    for i, setting in enumerate(evidence.candidates):
        means = {name: setting.metric(name) for name in (evidence.choice, *constraints)}
        values = {name: None if mean is None else mean.mean for name, mean in means.items()}
        rows.append({**values, "status": "done" if setting.rows else "failed", "number": i})
    found = best_under(rows, constraints, evidence.choice, evidence.direction)
    return None if found is None else evidence.candidates[found["number"]]


def verdict(one: Difference) -> str:
    """What a difference tells at the 5 % level, after Holm's correction."""
    p = one.p_value if one.p_holm is None else one.p_holm
    if one.n < 2:
        return "one seed only: no test" if one.n else "no seed in common: no test"
    if p is None:
        return "the same for every seed: no test"
    return BEYOND if p < ALPHA else WITHIN


def figures(one: Difference, metric: str) -> str:
    """``+0.06 points, 95 % interval -0.10 to +0.22, d = 0.9, p = 0.21 (Holm), n = 3``."""
    if one.mean is None:
        return "no difference to give"
    parts = [wording.difference(one.mean, metric)]
    if one.low is not None and one.high is not None:
        scale, form = (100, ".2f") if wording.is_share(metric) else (1, ".4g")
        low, high = (wording.signed(scale * end, form) for end in (one.low, one.high))
        parts.append(f"95 % interval {low} to {high}")
    if one.effect_size is not None:
        parts.append(f"effect size d = {one.effect_size:.2f}".replace("-", "−"))
    p = one.p_value if one.p_holm is None else one.p_holm
    if p is not None:
        corrected = one.p_holm is not None and one.p_value is not None and not math.isclose(p, one.p_value)
        parts.append(wording.p_value(p) + (" Holm-corrected" if corrected else ""))
    return ", ".join([*parts, f"n = {one.n}"])


def _headline(evidence: ReportData, best: Setting) -> str:
    metric, mean = evidence.metric, best.metric(evidence.metric)
    within = ", ".join(f"{_called(name)} {text}" for name, text in evidence.space.constraints.items())
    chosen = " on the validation images" if evidence.choice == "val_accuracy" else ""
    start = f"Best{chosen}{f' within {within}' if within else ''}: {evidence.names.of(best)}."
    if mean is None:
        return start
    details = [f"n = {mean.n}", wording.interval(mean.low, mean.high, metric)]
    removed = best.metric("mac_sparsity")
    cost = [_fewer(removed.mean)] if removed else []
    params = best.metric("param_sparsity")
    cost += [f"{100 * params.mean:.1f} % fewer parameters"] if params else []
    faster = best.metric("latency_speedup")
    cost += [f"{faster.mean:.2f} times as fast as the dense network"] if faster and faster.mean != 1 else []
    value = wording.mean_sd(mean, metric) + (" %" if wording.is_share(metric) else "")
    return (
        f"{start} It has {value} {_called(metric)} ({', '.join(d for d in details if d)})"
        + (f", with {_listed(cost)}" if cost else "")
        + "."
    )


def _fewer(share: float) -> str:
    return "as many MACs as the dense network" if abs(share) < 0.0005 else f"{100 * share:.1f} % fewer MACs"


def _beside_dense(evidence: ReportData, best: Setting) -> str:
    metric = evidence.metric
    if metric != "accuracy" or not any(row.get("dense_accuracy") is not None for row in best.rows):
        return ""
    dense = Setting("dense", best.point, tuple({**row, metric: row.get("dense_accuracy")} for row in best.rows), 0)
    found = between(best, dense, metric)
    mean = dense.metric(metric)
    assert mean is not None
    return (
        f"The dense networks it started from have {wording.mean_sd(mean, metric)} %. "
        f"Difference, paired by seed: {figures(found, metric)}; {verdict(found)}."
    )


def _beside_control(evidence: ReportData, best: Setting) -> str:
    same = ("model", "data", "retrain", "retrain.epochs")
    controls = [
        s
        for s in evidence.settings
        if is_dense(s) and s.rows and all(s.point.get(n) == best.point.get(n) for n in same)
    ]
    if not controls:
        return ""
    found, mean = between(best, controls[0], evidence.metric), controls[0].metric(evidence.metric)
    unit = " %" if wording.is_share(evidence.metric) else ""
    return (
        f"The dense control, retrained in the same way, has {wording.mean_sd(mean, evidence.metric)}{unit}. "
        f"Difference: {figures(found, evidence.metric)}; {verdict(found)}."
    )


def _beside_runner_up(evidence: ReportData, best: Setting) -> str:
    among = [setting for setting in evidence.candidates if _network(setting) == _network(best)]
    order = ranked(among, evidence.choice, evidence.direction)
    others = [setting for setting in order if setting is not best]
    if not others:
        return ""
    second = others[0]
    found = between(best, second, evidence.metric)
    return (
        f"The runner-up of all settings is {evidence.names.of(second)}. "
        f"Difference: {figures(found, evidence.metric)}; {verdict(found)}."
    )


def _by_target(held: Sequence[Contest], evidence: ReportData) -> list[str]:
    if not held or (len(held) == 1 and len(evidence.settings) == len(held[0].ranked)):
        return []  # the runner-up was told already
    told = [one for one in held if one.difference is not None and verdict(one.difference) == BEYOND]
    if not told:
        if len(held) == 1:
            return ["At the one target that several settings share, the best is not told apart from the runner-up."]
        return [f"At none of the {len(held)} targets is the best setting told apart from the runner-up there."]
    several = len(evidence.networks) > 1
    parts = []
    for one in told[:_SHOWN]:
        assert one.difference is not None
        place = wording.target(one.point) or "what the methods removed by themselves"
        network = f" of {one.point['model']}" if several and "model" in one.point else ""
        first, second = (_bare(setting, evidence) for setting in one.ranked[:2])
        parts.append(f"at {place}{network} {first} is ahead of {second} ({figures(one.difference, evidence.metric)})")
    more = f"; {len(told) - _SHOWN} more are in the table" if len(told) > _SHOWN else ""
    count = f"At {len(told)} of {len(held)} targets" if len(held) > 1 else "At the one shared target"
    return [f"{count} the best setting is told apart from the runner-up: {'; '.join(parts)}{more}."]


def _knob(importances: Sequence[Importance], metric: str) -> str:
    over_all = [one for one in importances if one.arm is None and one.method == "permutation"]
    known = sorted((one for one in over_all if one.value is not None), key=lambda one: -(one.value or 0))
    if not known:
        return "Which parameter matters most cannot be told from so few settings." if over_all else ""
    noise = next((one for one in importances if one.arm is None and one.method == SEED_NOISE), None)
    floor = None if noise is None else noise.value
    top = known[0]
    if sum(one.value or 0 for one in known) < _EXPLAINED:
        seeds = f"; the seeds account for {100 * floor:.0f} % of its variance" if floor is not None else ""
        return (
            f"Which parameter matters most cannot be told: a random forest does not predict the {_called(metric)} "
            f"of settings held out{seeds}."
        )
    share = f"{_share(top)} of the variance of {_called(metric)} over all settings, as far as a random forest can tell"
    if floor is None:
        return f"Of what was varied, {_parameter(top.parameter)} matters most: it accounts for {share}."
    if (top.low or 0) <= floor:
        return (
            f"Which parameter matters most is not clear: the first, {_parameter(top.parameter)}, accounts for {share}; "
            f"the seeds account for {100 * floor:.0f} %."
        )
    text = f"Of what was varied, {_parameter(top.parameter)} matters most: it accounts for {share}; "
    text += f"the seeds account for {100 * floor:.0f} %"
    below = [_parameter(one.parameter) for one in known if (one.low or 0) <= floor]
    return f"{text}; not clearly above them: {_listed(below)}." if below else f"{text}."


def _limits(evidence: ReportData, held: Sequence[Contest]) -> list[str]:
    found = []
    for status, group in groupby(sorted(str(r["status"]) for r in evidence.rows if r["status"] != "done")):
        found.append(
            f"{_count(len(list(group)), 'trial')} {status}: their settings rest on fewer seeds, or have no value."
        )
    if evidence.waiting:
        found.append(f"{_count(evidence.waiting, 'planned trial')} not run yet.")
    few = [setting for setting in evidence.settings if 0 < len(setting.rows) < FEWEST_SEEDS]
    if few:
        at_most = max(len(setting.rows) for setting in few)
        found.append(
            f"{len(few)} of {len(evidence.settings)} settings have "
            f"{'one seed' if at_most == 1 else f'at most {at_most} seeds'}: "
            f"the spread over seeds is {'not known' if at_most == 1 else 'barely known'} there."
        )
    ended = sum(bool(setting.rows) and not is_dense(setting) for setting in evidence.settings)
    aside = ended - len(evidence.candidates)
    if aside:
        seeds = min(len(setting.rows) for setting in evidence.candidates)
        found.append(
            f"{_count(aside, 'setting')} with fewer than {seeds} finished seeds {'is' if aside == 1 else 'are'} shown, "
            "but not ranked."
        )
    smallest = smallest_difference([c.difference for c in held if c.difference is not None])
    if smallest:
        size = wording.difference(smallest, evidence.metric).lstrip("+")
        found.append(
            f"With so many seeds, a difference of less than about {size} between two settings would be missed more "
            "often than one time in five."
        )
    found += _off_target(evidence)
    if evidence.done and not any(row.get("latency_ms") is not None for row in evidence.done):
        found.append("No latency was measured: fewer MACs need not mean faster.")
    if evidence.waiting is None:
        found.append(
            "The plan could not be made here (are its data elsewhere?): trials that have not run are not counted."
        )
    return found


def _off_target(evidence: ReportData) -> list[str]:
    off = [row for row in evidence.done if _distance(row) > OFF_TARGET]
    if not off:
        return []
    worst = max(off, key=_distance)
    return [
        f"{_count(len(off), 'trial')} removed a share more than {100 * OFF_TARGET:.0f} points from the one asked for "
        f"(the furthest: {100 * worst['achieved_sparsity']:.1f} % for {100 * worst['target_sparsity']:.1f} %)."
    ]


def _distance(row: object) -> float:
    asked, got = row.get("target_sparsity"), row.get("achieved_sparsity")  # type: ignore[attr-defined]
    return abs(asked - got) if asked is not None and got is not None else 0.0


def _network(setting: Setting) -> tuple[object, ...]:
    return tuple(setting.point.get(name) for name in wording.NETWORK)


def _bare(setting: Setting, evidence: ReportData) -> str:
    return ", ".join(part for part in (setting.arm, evidence.names.rest(setting)) if part)


def _share(one: Importance) -> str:
    assert one.value is not None
    text = f"{100 * one.value:.0f} %"
    return text if one.low is None or one.high is None else f"{text} ({100 * one.low:.0f} to {100 * one.high:.0f} %)"


def _parameter(name: str) -> str:
    return {"arm": "the arm (method)", "target.sparsity": "the share removed (target.sparsity)"}.get(name, name)


def _called(metric: str) -> str:
    return wording.METRICS.get(metric, metric)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
