"""Commands for sweeps: plan, run, status."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from orchestrator.cli.app import (
    ERR,
    OUT,
    RUNS,
    AsJson,
    Overrides,
    SpaceFile,
    StoreOption,
    SweepName,
    app,
    cell,
    errors,
    fail,
    find_sweep,
    parse_overrides,
)
from orchestrator.records.bucket_sync import refresh_with_warm_starts
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.stages import STAGE_NAMES
from orchestrator.sweep.planning import Plan
from orchestrator.sweep.planning import plan as make_plan


@app.command()
def plan(
    space: SpaceFile,
    out: StoreOption = RUNS,
    overrides: Overrides = None,
    as_json: AsJson = False,
    add_controls: Annotated[bool, typer.Option(help="Print the search space with missing controls as arms.")] = False,
) -> None:
    """Resolve and check a search space without training."""
    with errors():
        if add_controls:
            from orchestrator.report.controls import with_controls
            from orchestrator.spec.yaml_text import as_yaml

            print(as_yaml(with_controls(SearchSpace.load(space, parse_overrides(overrides)))), end="")
            return
        parsed = SearchSpace.load(space, parse_overrides(overrides))
        folder = out.folder / parsed.name
        refresh_with_warm_starts(out, folder, parsed.search.warm_start)
        planned = make_plan(parsed, folder)
        facts = _facts(planned, folder)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(title=f"{planned.space.name}: {facts['question'] or 'no question given'}", title_justify="left")
    for name, justify in (("arm", "left"), ("method", "left"), ("axes", "left"), ("trials", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for arm in facts["arms"]:
        table.add_row(arm["arm"], arm["method"], ", ".join(arm["axes"]), str(arm["trials"]))
    OUT.print(table)
    stages = facts["stages"]
    OUT.print(
        f"{facts['trials']} trials, {facts['done']} done already; "
        f"{stages['baseline']} distinct baselines, {stages['sparse_training']} sparse trainings, "
        f"{stages['importance']} importance scores, {stages['step']} steps shared by them"
    )
    if planned.to_draw:
        search = planned.space.search
        OUT.print(f"{search.name} draws {planned.to_draw} more, whose shared stages are not known yet")
    if facts["repeated"]:
        OUT.print(f"{facts['repeated']} more points resolve to trials planned before; each runs once")


@app.command()
def run(
    space: SpaceFile,
    out: StoreOption = RUNS,
    address: Annotated[str, typer.Option(help="local, auto, HOST:PORT, or inline.")] = "local",
    overrides: Overrides = None,
    retry_failed: Annotated[bool, typer.Option(help="Run trials again that failed before.")] = False,
) -> None:
    """Run or resume a sweep. Exit 0: every trial ended well; 1: some failed; 2: bad search space."""
    from orchestrator.sweep.driver.display import duration
    from orchestrator.sweep.run import SweepBusy
    from orchestrator.sweep.run import run as run_sweep

    with errors():
        try:
            outcome = run_sweep(
                SearchSpace.load(space, parse_overrides(overrides)),
                out=out.address,
                address=address,
                retry_failed=retry_failed,
            )
        except SweepBusy as busy:
            fail(str(busy))
        except KeyboardInterrupt:
            ERR.print("stopped before the first trial")
            raise typer.Exit(130) from None
    for warning in outcome.warnings:
        ERR.print(f"warning: {warning}", markup=False, soft_wrap=True)
    again = " ".join(["prunesweep run", *sys.argv[2:]])
    if outcome.interrupted:
        ERR.print(f"stopped; what has ended is kept. Resume with: {again}", markup=False, soft_wrap=True)
        raise typer.Exit(130)
    _summary(outcome.folder, outcome.plan)
    trained = ", ".join(f"{count} {name}" for name, count in outcome.trained.items()) or "no shared stage"
    took = ", ".join(f"{what} {duration(seconds)}" for what, seconds in outcome.seconds.items())
    OUT.print(
        f"executed {outcome.executed} of {len(outcome.plan.trials)} trials, computed {trained}, "
        f"measured {outcome.measured} latencies{f' ({took})' if took else ''}",
        soft_wrap=True,
    )
    OUT.print(f"records and tables: {out.address_of(outcome.folder)}", soft_wrap=True, markup=False)
    OUT.print(f"MLflow: prunesweep ui --out {out.address}", soft_wrap=True, markup=False)
    if outcome.failures:
        by_reason: dict[str, list[str]] = {}
        for failure in outcome.failures:
            by_reason.setdefault(f"{failure.status}: {failure.error}", []).append(failure.trial_id)
        for reason, ids in by_reason.items():
            ERR.print(f"{len(ids)} {reason} ({', '.join(ids)})", markup=False, soft_wrap=True)
        ERR.print(f"{len(outcome.failures)} trials failed; run them again with: {again} --retry-failed", markup=False)
        raise typer.Exit(1)


@app.command()
def status(
    sweep: SweepName,
    out: StoreOption = RUNS,
    as_json: AsJson = False,
) -> None:
    """Show done, running, failed and waiting trials, the best so far, and the time left."""
    from orchestrator.sweep.maintenance.status import state_of

    store, folder = find_sweep(sweep, out)
    with errors(), _garbage_collection_paused():
        facts = state_of(store, folder)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    OUT.print(
        f"{facts['sweep']}: {facts['planned']} trials: {facts['done']} done, {facts['running']} running, "
        f"{facts['failed']} failed, {facts['waiting']} waiting"
    )
    if facts["seconds_left"] is not None:
        from orchestrator.sweep.driver.display import duration

        OUT.print(f"about {duration(facts['seconds_left'])} left")
    best = facts["best"]
    if best is not None:
        point = ", ".join(f"{name} {value}" for name, value in best["point"].items())
        OUT.print(
            f"best {best['metric']} so far: {best['value']:.4f} ({best['arm']}: {point}), trial {best['trial_id']}"
        )


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause Python's garbage collector; with ten thousand records, it would take a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_ROWS = 100
"""Largest number of settings that the summary of a run shows."""


def _summary(folder: Path, planned: Plan) -> None:
    """Print mean and standard deviation over seeds, one row per setting."""
    from orchestrator.analysis.aggregate import group_settings
    from orchestrator.analysis.load import load_results

    ids = {trial.trial_id for trial in planned.trials}
    rows = [row for row in load_results(folder) if row["trial_id"] in ids]
    order = {trial.trial_id: i for i, trial in enumerate(planned.trials)}
    rows.sort(key=lambda row: order[row["trial_id"]])
    table = Table(title=planned.space.question or planned.space.name, title_justify="left")
    settings = group_settings(rows, planned.varied)
    axes = [name for name in planned.varied if name != "seed"]
    for name in ("arm", *(axis.rpartition(".")[2] for axis in axes)):
        table.add_column(name)
    metrics = {
        "dense_accuracy": "dense %",
        "pruned_accuracy": "pruned %",
        "accuracy": "retrained %",
        "mac_sparsity": "MACs",
        "param_sparsity": "params",
        "latency_speedup": "speed-up",
    }
    for title in (*metrics.values(), "n"):
        table.add_column(title, justify="right")
    for setting in settings[:_ROWS]:
        values = [setting.metric(name) for name in metrics]
        cells = [_mean(value, name) for value, name in zip(values, metrics, strict=True)]
        count = ", ".join([str(len(setting.rows)), *(f"{n} {status}" for status, n in setting.statuses.items())])
        table.add_row(setting.arm, *(cell(setting.point.get(name)) for name in axes), *cells, count)
    OUT.print(table)
    if len(settings) > _ROWS:
        OUT.print(f"and {len(settings) - _ROWS} settings more: prunesweep report {folder.name}")


def _mean(value: Any, name: str) -> str:
    if value is None:
        return ""
    if name == "latency_speedup":
        return f"{value.mean:.2f}x"
    if name.endswith("_sparsity"):
        return f"-{value.mean:.1%}" if value.mean else "0%"
    return f"{value.mean:.2%}".rstrip("%") + ("" if value.sd is None else f" ± {100 * value.sd:.2f}")


def _facts(planned: Plan, folder: Path) -> dict[str, Any]:
    from orchestrator.records.records import recorded_ids

    recorded = recorded_ids(folder)
    arms: dict[str, dict[str, Any]] = {}
    if planned.to_draw:
        for arm in planned.arms:
            method = arm.config.get("method", arm.label)
            name = method["name"] if isinstance(method, dict) else method
            arms.setdefault(arm.label, {"arm": arm.label, "method": name, "axes": list(arm.axes), "trials": 0})
    for trial in planned.trials:
        fresh = {"arm": trial.arm, "method": trial.spec.method.name, "axes": list(trial.point), "trials": 0}
        arms.setdefault(trial.arm, fresh)["trials"] += 1
    return {
        "sweep": planned.space.name,
        "question": planned.space.question,
        "trials": planned.total,
        "repeated": planned.repeated,
        "done": sum(trial.trial_id in recorded for trial in planned.trials),
        "stages": {name: planned.count(name) for name in STAGE_NAMES},
        "arms": list(arms.values()),
        "trial_ids": [trial.trial_id for trial in planned.trials],
    }
