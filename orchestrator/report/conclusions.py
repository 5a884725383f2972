"""Draw the conclusions of a report: sentences computed from the rows, each with its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from orchestrator.analysis.aggregate import Difference, Setting, between
from orchestrator.analysis.pareto import best_under
from orchestrator.analysis.rankings import TargetRanking, minimum_detectable_difference, rank_settings, rankings
from orchestrator.analysis.sensitivity.factors import SEED_NOISE, Importance
from orchestrator.report import formatting
from orchestrator.report.data import FEWEST_SEEDS, ReportData, is_dense
from orchestrator.report.formatting import MetricLike

ALPHA = 0.05
OFF_TARGET = 0.02
"""Distance from the target sparsity above which a trial is reported."""
DISTINGUISHABLE, INDISTINGUISHABLE = "statistically distinguishable", "not statistically distinguishable"
_MOST_TARGETS = 4
_LEAST_EXPLAINED = 0.1
"""Share of the variance below which the order of the parameters is chance."""


@dataclass(frozen=True)
class Conclusions:
    """The answer to a sweep's question, and its limits."""

    headline: str
    findings: tuple[str, ...]
    limits: tuple[str, ...]
    best: Setting | None
    rankings: tuple[TargetRanking, ...]


def conclude(data: ReportData, importances: Sequence[Importance]) -> Conclusions:
    """Return the sentences that a report opens with.

    Raises:
        Unpairable: a setting contains a seed twice.
    """
    metric = data.metric
    by_target = tuple(rankings(data.candidates, metric, data.choice, data.direction))
    limits = tuple(_limits(data, by_target))
    best = best_within(data, data.space.constraints)
    if best is None:
        headline = f"There is no best setting: no finished trial has a value of {formatting.label(data.metric_row)}" + (
            " within the constraints." if data.space.constraints else "."
        )
        return Conclusions(headline, (), limits, None, by_target)
    findings = [
        _against_dense(data, best),
        _against_control(data, best),
        _against_runner_up(data, best),
        *_by_target(by_target, data),
        _most_important(importances, data.metric_row),
    ]
    return Conclusions(_headline(data, best), tuple(f for f in findings if f), limits, best, by_target)


def best_within(data: ReportData, budget: Mapping[str, str]) -> Setting | None:
    """Return the candidate with the best mean of ``data.choice`` within the budget; None if none is within it."""
    metrics = (data.choice, *budget)
    rows = [{**setting.mean_row(metrics), "number": i} for i, setting in enumerate(data.candidates)]
    best = best_under(rows, budget, data.choice, data.direction)
    return None if best is None else data.candidates[best["number"]]


def verdict(difference: Difference) -> str:
    """Say whether a difference is significant at the 5 % level, after Holm's correction."""
    p = difference.p_value if difference.p_holm is None else difference.p_holm
    if difference.n < 2:
        return "one seed only: no test" if difference.n else "no seed in common: no test"
    if p is None:
        return "the same for every seed: no test"
    return DISTINGUISHABLE if p < ALPHA else INDISTINGUISHABLE


def statistics_of(difference: Difference, metric: MetricLike) -> str:
    """Format a difference: ``+0.06 points, 95 % interval -0.10 to +0.22, effect size d = 0.9, p = 0.21, n = 3``."""
    if difference.mean is None:
        return "no difference known"
    parts = [formatting.difference(difference.mean, metric)]
    if difference.low is not None and difference.high is not None:
        scale, form = (100, ".2f") if formatting.is_share(metric) else (1, ".4g")
        low, high = (formatting.signed(scale * end, form) for end in (difference.low, difference.high))
        parts.append(f"95 % interval {low} to {high}")
    if difference.effect_size is not None:
        parts.append(f"effect size d = {difference.effect_size:.2f}".replace("-", "−"))
    raw, holm = difference.p_value, difference.p_holm
    p = raw if holm is None else holm
    if p is not None:
        corrected = holm is not None and raw is not None and not math.isclose(p, raw)
        parts.append(formatting.p_value(p) + (" Holm-corrected" if corrected else ""))
    return ", ".join([*parts, f"n = {difference.n}"])


def _headline(data: ReportData, best: Setting) -> str:
    metric, mean = data.metric_row, best.metric(data.metric)
    within = ", ".join(f"{formatting.label(data.row_of(name))} {text}" for name, text in data.space.constraints.items())
    chosen = " on the validation images" if data.choice == "val_accuracy" else ""
    start = f"Best{chosen}{f' within {within}' if within else ''}: {data.names.of(best)}."
    if mean is None:
        return start
    details = [f"n = {mean.n}", formatting.interval(mean.low, mean.high, metric)]
    macs = best.metric("mac_sparsity")
    savings = [_fewer_macs(macs.mean)] if macs else []
    params = best.metric("param_sparsity")
    savings += [f"{100 * params.mean:.1f} % fewer parameters"] if params else []
    faster = best.metric("latency_speedup")
    savings += [f"{faster.mean:.2f} times as fast as the dense network"] if faster and faster.mean != 1 else []
    value = formatting.mean_sd(mean, metric) + (" %" if formatting.is_share(metric) else "")
    return (
        f"{start} It has {value} {formatting.label(metric)} ({', '.join(d for d in details if d)})"
        + (f", with {_enumerate(savings)}" if savings else "")
        + "."
    )


def _fewer_macs(share: float) -> str:
    return "as many MACs as the dense network" if abs(share) < 0.0005 else f"{100 * share:.1f} % fewer MACs"


def _against_dense(data: ReportData, best: Setting) -> str:
    metric = data.metric
    if metric != "accuracy" or not any(row.get("dense_accuracy") is not None for row in best.rows):
        return ""
    dense = Setting("dense", best.point, tuple({**row, metric: row.get("dense_accuracy")} for row in best.rows), 0)
    difference = between(best, dense, metric)
    mean = dense.metric(metric)
    assert mean is not None
    return (
        f"The dense networks it started from have {formatting.mean_sd(mean, metric)} %. "
        f"Difference, paired by seed: {statistics_of(difference, metric)}; {verdict(difference)}."
    )


def _against_control(data: ReportData, best: Setting) -> str:
    same = ("model", "data", "retrain", "retrain.epochs")
    controls = [
        setting
        for setting in data.settings
        if is_dense(setting) and setting.rows and all(setting.point.get(n) == best.point.get(n) for n in same)
    ]
    if not controls:
        return ""
    difference, mean = between(best, controls[0], data.metric), controls[0].metric(data.metric)
    unit = " %" if formatting.is_share(data.metric_row) else ""
    return (
        f"The dense control, retrained in the same way, has {formatting.mean_sd(mean, data.metric_row)}{unit}. "
        f"Difference: {statistics_of(difference, data.metric_row)}; {verdict(difference)}."
    )


def _against_runner_up(data: ReportData, best: Setting) -> str:
    same_network = [setting for setting in data.candidates if _network(setting) == _network(best)]
    ranked = rank_settings(same_network, data.choice, data.direction)
    others = [setting for setting in ranked if setting is not best]
    if not others:
        return ""
    difference = between(best, others[0], data.metric)
    return (
        f"The runner-up of all settings is {data.names.of(others[0])}. "
        f"Difference: {statistics_of(difference, data.metric_row)}; {verdict(difference)}."
    )


def _by_target(by_target: Sequence[TargetRanking], data: ReportData) -> list[str]:
    if not by_target or (len(by_target) == 1 and len(data.settings) == len(by_target[0].ranked)):
        return []  # the only ranking is the one over all settings, whose runner-up has its own sentence
    decided = [(r, r.difference) for r in by_target if r.difference and verdict(r.difference) == DISTINGUISHABLE]
    if not decided:
        if len(by_target) == 1:
            return [f"At the only shared target the best setting is {INDISTINGUISHABLE} from the runner-up."]
        return [f"At none of the {len(by_target)} targets is the best setting {DISTINGUISHABLE} from the runner-up."]
    several = len(data.networks) > 1
    parts = []
    for ranking, difference in decided[:_MOST_TARGETS]:
        target = formatting.target(ranking.point) or "the sparsity that the methods chose"
        network = f" of {ranking.point['model']}" if several and "model" in ranking.point else ""
        first, second = (_short_name(setting, data) for setting in ranking.ranked[:2])
        parts.append(
            f"at {target}{network} {first} is ahead of {second} ({statistics_of(difference, data.metric_row)})"
        )
    more = f"; {len(decided) - _MOST_TARGETS} more are in the table" if len(decided) > _MOST_TARGETS else ""
    count = f"At {len(decided)} of {len(by_target)} targets" if len(by_target) > 1 else "At the only shared target"
    return [f"{count} the best setting is {DISTINGUISHABLE} from the runner-up: {'; '.join(parts)}{more}."]


def _most_important(importances: Sequence[Importance], metric: MetricLike) -> str:
    over_all = [i for i in importances if i.arm is None and i.method == "permutation"]
    known = sorted((i for i in over_all if i.value is not None), key=lambda i: -(i.value or 0))
    if not known:
        return "There are too few settings to tell which parameter matters most." if over_all else ""
    noise = next((i for i in importances if i.arm is None and i.method == SEED_NOISE), None)
    floor = None if noise is None else noise.value
    top = known[0]
    if sum(i.value or 0 for i in known) < _LEAST_EXPLAINED:
        seeds = f"; the seeds account for {100 * floor:.0f} % of its variance" if floor is not None else ""
        return (
            f"Which parameter matters most is unknown: a random forest does not predict the {formatting.label(metric)} "
            f"of held-out settings{seeds}."
        )
    variance = f"the variance of {formatting.label(metric)} over all settings"
    share = f"{_share(top)} of {variance}, as estimated by a random forest"
    if floor is None:
        return f"Of the varied parameters, {_parameter(top.parameter)} matters most: it accounts for {share}."
    if (top.low or 0) <= floor:
        return (
            f"Which parameter matters most is not clear: the first, {_parameter(top.parameter)}, accounts for {share}; "
            f"the seeds account for {100 * floor:.0f} %."
        )
    text = f"Of the varied parameters, {_parameter(top.parameter)} matters most: it accounts for {share}; "
    text += f"the seeds account for {100 * floor:.0f} %"
    below = [_parameter(i.parameter) for i in known if (i.low or 0) <= floor]
    return f"{text}; not clearly above the seeds: {_enumerate(below)}." if below else f"{text}."


def _limits(data: ReportData, by_target: Sequence[TargetRanking]) -> list[str]:
    limits = []
    for status, group in groupby(sorted(str(r["status"]) for r in data.rows if r["status"] != "done")):
        limits.append(f"{_count(len(list(group)), 'trial')} {status}: their settings have fewer seeds, or no value.")
    if data.waiting:
        limits.append(f"{_count(data.waiting, 'planned trial')} not run yet.")
    few = [setting for setting in data.settings if 0 < len(setting.rows) < FEWEST_SEEDS]
    if few:
        at_most = max(len(setting.rows) for setting in few)
        limits.append(
            f"{len(few)} of {len(data.settings)} settings have "
            f"{'one seed' if at_most == 1 else f'at most {at_most} seeds'}: "
            f"their standard deviation over seeds is {'unknown' if at_most == 1 else 'uncertain'}."
        )
    pruned = sum(bool(setting.rows) and not is_dense(setting) for setting in data.settings)
    unranked = pruned - len(data.candidates)
    if unranked:
        seeds = min(len(setting.rows) for setting in data.candidates)
        limits.append(
            f"{_count(unranked, 'setting')} with fewer than {seeds} finished seeds "
            f"{'is' if unranked == 1 else 'are'} shown, but not ranked."
        )
    smallest = minimum_detectable_difference([r.difference for r in by_target if r.difference is not None])
    if smallest:
        size = formatting.difference(smallest, data.metric_row).lstrip("+")
        limits.append(
            f"With this number of seeds, a true difference below about {size} between two settings is detected with a "
            "probability of less than 80 %."
        )
    limits += _off_target(data)
    if data.done and not any(row.get("latency_ms") is not None for row in data.done):
        limits.append("No latency was measured: fewer MACs do not imply a faster network.")
    if data.waiting is None:
        limits.append(
            "The plan could not be made on this machine (is its data elsewhere?): trials that have not run are not "
            "counted."
        )
    return limits


def _off_target(data: ReportData) -> list[str]:
    off = [row for row in data.done if _distance(row) > OFF_TARGET]
    if not off:
        return []
    worst = max(off, key=_distance)
    return [
        f"{_count(len(off), 'trial')} missed the target sparsity by more than {100 * OFF_TARGET:.0f} points "
        f"(the worst: {100 * worst['achieved_sparsity']:.1f} % instead of {100 * worst['target_sparsity']:.1f} %)."
    ]


def _distance(row: Mapping[str, Any]) -> float:
    target, achieved = row.get("target_sparsity"), row.get("achieved_sparsity")
    return abs(target - achieved) if target is not None and achieved is not None else 0.0


def _network(setting: Setting) -> tuple[object, ...]:
    return tuple(setting.point.get(name) for name in formatting.NETWORK)


def _short_name(setting: Setting, data: ReportData) -> str:
    return ", ".join(part for part in (setting.arm, data.names.rest(setting)) if part)


def _share(importance: Importance) -> str:
    assert importance.value is not None
    text = f"{100 * importance.value:.0f} %"
    if importance.low is None or importance.high is None:
        return text
    return f"{text} ({100 * importance.low:.0f} to {100 * importance.high:.0f} %)"


def _parameter(name: str) -> str:
    return {"arm": "the arm (method)", "target.sparsity": "the share removed (target.sparsity)"}.get(name, name)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _enumerate(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
