"""The command line: plan, run, status, compare, list, ui. Bad input is one message and exit code 2."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.spec.errors import SpecError, nearest
from orchestrator.spec.search_space import SearchSpace, parse_yaml
from orchestrator.sweep.planning import STAGE_NAMES, Plan
from orchestrator.sweep.planning import plan as make_plan

app = typer.Typer(
    help="Sweeps over network pruning methods, sparsities and retraining schedules.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# A file or a pipe has no width: tables keep theirs.
_out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
_err = Console(stderr=True, highlight=False)

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The search space.")]
Store = Annotated[Path, typer.Option("--out", help="The store that sweeps share.")]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, or its folder.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, e.g. --set data.path=images (repeatable)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on standard output, nothing else.")]


def main() -> None:
    """Entry point; the user's own modules are found in the current folder."""
    sys.path.insert(0, os.getcwd())
    app()


@app.command()
def plan(space: SpaceFile, out: Store = Path("runs"), settings: Settings = None, as_json: AsJson = False) -> None:
    """Resolve and check everything; train nothing."""
    with _errors():
        planned = make_plan(SearchSpace.load(space, _settings(settings)))
        facts = _facts(planned, out)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(title=f"{planned.space.name}: {facts['question'] or 'no question given'}", title_justify="left")
    for name, justify in (("arm", "left"), ("method", "left"), ("axes", "left"), ("trials", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for arm in facts["arms"]:
        table.add_row(arm["arm"], arm["method"], ", ".join(arm["axes"]), str(arm["trials"]))
    _out.print(table)
    stages = facts["stages"]
    _out.print(
        f"{facts['trials']} trials, {facts['done']} done already; "
        f"{stages['baseline']} distinct baselines, {stages['sparse_training']} sparse trainings, "
        f"{stages['importance']} importance scores, {stages['step']} steps shared by them"
    )
    if facts["repeated"]:
        _out.print(f"{facts['repeated']} more points resolve to trials planned before; each runs once")


@app.command()
def run(
    space: SpaceFile,
    out: Store = Path("runs"),
    address: Annotated[str, typer.Option(help="local, auto, or HOST:PORT of a Ray cluster.")] = "local",
    settings: Settings = None,
    retry_failed: Annotated[bool, typer.Option(help="Run trials again that failed before.")] = False,
) -> None:
    """Run or resume a sweep. Exit 0: every trial ended well; 1: some failed; 2: bad search space."""
    from orchestrator.sweep.progress import duration
    from orchestrator.sweep.running import SweepBusy
    from orchestrator.sweep.running import run as run_sweep

    with _errors():
        try:
            outcome = run_sweep(
                SearchSpace.load(space, _settings(settings)), out=out, address=address, retry_failed=retry_failed
            )
        except SweepBusy as busy:
            _fail(str(busy))
        except KeyboardInterrupt:
            _err.print("stopped before the first trial")
            raise typer.Exit(130) from None
    for warning in outcome.warnings:
        _err.print(f"warning: {warning}", markup=False, soft_wrap=True)
    again = " ".join(["prunesweep run", *sys.argv[2:]])
    if outcome.interrupted:
        _err.print(f"stopped; what has ended is kept. Resume with: {again}", markup=False, soft_wrap=True)
        raise typer.Exit(130)
    _summary(outcome.folder, outcome.plan)
    trained = ", ".join(f"{count} {name}" for name, count in outcome.trained.items()) or "no shared stage"
    took = ", ".join(f"{what} {duration(seconds)}" for what, seconds in outcome.seconds.items())
    _out.print(
        f"executed {outcome.executed} of {len(outcome.plan.trials)} trials, computed {trained}, "
        f"measured {outcome.measured} latencies{f' ({took})' if took else ''}",
        soft_wrap=True,
    )
    _out.print(f"records and tables: {outcome.folder}", soft_wrap=True, markup=False)
    _out.print(f"MLflow: prunesweep ui --out {out}", soft_wrap=True, markup=False)
    if outcome.failures:
        by_reason: dict[str, list[str]] = {}
        for failure in outcome.failures:
            by_reason.setdefault(f"{failure.status}: {failure.error}", []).append(failure.trial_id)
        for reason, ids in by_reason.items():
            _err.print(f"{len(ids)} {reason} ({', '.join(ids)})", markup=False, soft_wrap=True)
        _err.print(f"{len(outcome.failures)} trials failed; run them again with: {again} --retry-failed", markup=False)
        raise typer.Exit(1)


@app.command()
def status(
    sweep: SweepName,
    out: Store = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Done, running, failed, waiting; the best so far; time left."""
    from orchestrator.sweep.state import state_of

    folder = _folder(sweep, out)
    with _errors():
        facts = state_of(folder)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    _out.print(
        f"{facts['sweep']}: {facts['planned']} trials: {facts['done']} done, {facts['running']} running, "
        f"{facts['failed']} failed, {facts['waiting']} waiting"
    )
    if facts["seconds_left"] is not None:
        from orchestrator.sweep.progress import duration

        _out.print(f"about {duration(facts['seconds_left'])} left")
    best = facts["best"]
    if best is not None:
        told = ", ".join(f"{name} {value}" for name, value in best["point"].items())
        _out.print(
            f"best {best['metric']} so far: {best['value']:.4f} ({best['arm']}: {told}), trial {best['trial_id']}"
        )


@app.command()
def compare(
    sweep: SweepName,
    paper: Annotated[str, typer.Option(help="Id of the paper, e.g. 004.")],
    table: Annotated[int, typer.Option(help="Number of its table.")],
    out: Store = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """This sweep's numbers beside a published table, row by row."""
    from orchestrator.analysis.compare import compare as beside
    from orchestrator.analysis.compare import trends
    from orchestrator.analysis.load import load_results
    from orchestrator.analysis.papers import NoSuchTable
    from orchestrator.analysis.papers import table as printed_table

    folder = _folder(sweep, out)
    with _errors():
        try:
            found = beside(load_results(folder), paper, table)
            printed = printed_table(paper, table)
        except NoSuchTable as error:
            _fail(str(error))
    order = trends(found)
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in found], "trends": [asdict(t) for t in order]}, indent=2))
        return
    shown = Table(title=f"paper {paper}, table {table}: {printed.title}", title_justify="left")
    for name in ("row", "column", "printed", "ours", "difference", "note"):
        shown.add_column(name, justify="right" if name in ("printed", "ours", "difference") else "left")
    for row in found:
        mean = "" if row.ours is None else f"{row.ours.mean:.2f}" + (f" ± {row.ours.sd:.2f}" if row.ours.sd else "")
        delta = "" if row.delta is None else f"{row.delta:+.2f}"
        shown.add_row(*(Text(_cell(cell)) for cell in (row.row, row.column, row.printed, mean, delta, row.note)))
    _out.print(shown)
    for trend in order:
        verdict = {True: "holds", False: "does not hold", None: "cannot be told"}[trend.holds]
        _out.print(f"order of the rows by {trend.column}: {verdict} (n = {trend.n}, Kendall {trend.kendall})")
    for flag in printed.flags:
        _out.print(Text(f"printed inconsistency: {flag}"))


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(metavar="methods|models|data|schedules|metrics|searches|papers")],
    as_json: AsJson = False,
) -> None:
    """What can be named in a search space: parameters, defaults, source."""
    from orchestrator.sweep.catalogue import KINDS, catalogue

    if what not in KINDS:
        _fail(f"unknown list {what!r}{nearest(what, KINDS)}")
    entries = catalogue(what)
    if as_json:
        print(json.dumps(entries, indent=2))
        return
    columns = list(entries[0]) if entries else []
    table = Table(show_lines=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    for entry in entries:
        table.add_row(*(Text(_cell(entry[column])) for column in columns))  # not markup: list[float] has brackets
    _out.print(table)


@app.command()
def ui(
    out: Store = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """MLflow's own user interface on the store."""
    from orchestrator.store.mlflow_store import tracking_uri

    if not os.environ.get("MLFLOW_TRACKING_URI") and not (out / "mlflow.db").exists():
        _fail(f"{out / 'mlflow.db'} is not there: run a sweep first, or name its store with --out")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri(out)]
    command += ["--host", host, "--port", str(port)]
    # In place of this process, so that signals and the exit code are the server's own.
    os.execv(sys.executable, command)


def _summary(folder: Path, planned: Plan) -> None:
    """Mean and deviation over seeds, one row a setting."""
    from orchestrator.analysis.aggregate import settings
    from orchestrator.analysis.load import load_results

    ids = {trial.trial_id for trial in planned.trials}
    rows = [row for row in load_results(folder) if row["trial_id"] in ids]
    order = {trial.trial_id: i for i, trial in enumerate(planned.trials)}
    rows.sort(key=lambda row: order[row["trial_id"]])
    table = Table(title=planned.space.question or planned.space.name, title_justify="left")
    found = settings(rows, planned.varied)
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
    for setting in found:
        values = [setting.metric(name) for name in metrics]
        cells = [_mean(value, name) for value, name in zip(values, metrics, strict=True)]
        count = str(len(setting.rows)) + (f" ({setting.ended_badly} failed)" if setting.ended_badly else "")
        table.add_row(setting.arm, *(_cell(setting.point.get(name)) for name in axes), *cells, count)
    _out.print(table)


def _mean(value: Any, name: str) -> str:
    if value is None:
        return ""
    if name == "latency_speedup":
        return f"{value.mean:.2f}x"
    if name.endswith("_sparsity"):
        return f"-{value.mean:.1%}" if value.mean else "0%"
    return f"{value.mean:.2%}".rstrip("%") + ("" if value.sd is None else f" ± {100 * value.sd:.2f}")


def _facts(planned: Plan, out: Path) -> dict[str, Any]:
    from orchestrator.store.records import recorded_ids

    recorded = recorded_ids(out / planned.space.name)
    arms: dict[str, dict[str, Any]] = {}
    for trial in planned.trials:
        fresh = {"arm": trial.arm, "method": trial.spec.method.name, "axes": list(trial.point), "trials": 0}
        arms.setdefault(trial.arm, fresh)["trials"] += 1
    return {
        "sweep": planned.space.name,
        "question": planned.space.question,
        "trials": len(planned.trials),
        "repeated": planned.repeated,
        "done": sum(trial.trial_id in recorded for trial in planned.trials),
        "stages": {name: planned.count(name) for name in STAGE_NAMES},
        "arms": list(arms.values()),
        "trial_ids": [trial.trial_id for trial in planned.trials],
    }


def _folder(sweep: str, out: Path) -> Path:
    """The folder of a sweep given by name or by path."""
    folder = Path(sweep) if (Path(sweep) / "searchspace.yaml").exists() else out / sweep
    if not (folder / "searchspace.yaml").exists():
        known = [path.parent.name for path in out.glob("*/searchspace.yaml")]
        _fail(f"no sweep {sweep!r} under {out}{nearest(sweep, known)}")
    return folder


def _settings(given: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError("--set", f"must be KEY=VALUE, found {text!r}")
        found[key] = parse_yaml(value, f"--set {key}")
    return found


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {inner}" for key, inner in value.items())
    return str(value)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except SpecError as error:
        _fail(str(error))
    except PermissionError as error:
        _fail(f"{error.filename}: {error.strerror}")


def _fail(message: str) -> NoReturn:
    _err.print(f"error: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(2)
