"""Commands for the results of a sweep: compare, report, export, register."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.app import (
    ERR,
    OUT,
    RUNS,
    AsJson,
    StoreOption,
    SweepName,
    app,
    cell,
    errors,
    fail,
    find_sweep,
)
from orchestrator.spec.errors import nearest
from orchestrator.storage.sweep_paths import SweepPaths


@app.command()
def compare(
    sweep: SweepName,
    paper: Annotated[str, typer.Option(help="Id of the paper, e.g. 004.")],
    table: Annotated[int, typer.Option(help="Number of its table.")],
    out: StoreOption = RUNS,
    as_json: AsJson = False,
) -> None:
    """Compare a sweep's results with a published table, row by row."""
    from orchestrator.analysis import compare as comparison
    from orchestrator.analysis.load import load_results
    from orchestrator.analysis.papers import NoSuchTable
    from orchestrator.analysis.papers import table as published_table

    _, folder = find_sweep(sweep, out)
    with errors():
        try:
            rows = comparison.compare(load_results(folder), paper, table)
            published = published_table(paper, table)
        except NoSuchTable as error:
            fail(str(error))
    trends = comparison.trends(rows)
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "trends": [asdict(t) for t in trends]}, indent=2))
        return
    terminal = Table(title=f"paper {paper}, table {table}: {published.title}", title_justify="left")
    for name in ("row", "column", "published", "ours", "difference", "note"):
        terminal.add_column(name, justify="right" if name in ("published", "ours", "difference") else "left")
    for row in rows:
        mean = "" if row.ours is None else f"{row.ours.mean:.2f}" + (f" ± {row.ours.sd:.2f}" if row.ours.sd else "")
        delta = "" if row.delta is None else f"{row.delta:+.2f}"
        terminal.add_row(*(Text(cell(value)) for value in (row.row, row.column, row.printed, mean, delta, row.note)))
    OUT.print(terminal)
    for trend in trends:
        verdict = "holds" if trend.holds else "does not hold"
        OUT.print(f"order of the rows by {trend.column}: {verdict} (n = {trend.n}, Kendall {trend.kendall})")
    for flag in published.flags:
        OUT.print(Text(f"inconsistency in the published table: {flag}"))


@app.command()
def report(
    sweep: SweepName,
    out: StoreOption = RUNS,
    others: Annotated[list[str] | None, typer.Option("--compare", help="Another sweep (repeatable).")] = None,
) -> None:
    """Write one self-contained page with the answer, figures and tables: report/index.html in the sweep's folder."""
    from orchestrator.records.mlflow.view import MlflowFailure, log_report
    from orchestrator.report.document import write_report

    store, folder = find_sweep(sweep, out)
    folder = folder.resolve()
    with errors():
        page = write_report(store, folder, [find_sweep(other, out) for other in others or []])
    try:
        log_report(folder.parent, folder.name, page)
    except MlflowFailure as failure:
        ERR.print(f"warning: the report is not in MLflow: {failure}", markup=False, soft_wrap=True)
    OUT.print(str(page), soft_wrap=True, markup=False)


@app.command()
def export(
    sweep: SweepName,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="The trial's id.")],
    form: Annotated[str, typer.Option("--format", metavar="onnx|pt2", help="ONNX, or a torch.export program.")],
    out: StoreOption = RUNS,
) -> None:
    """Write a pruned network as one file, checked against the outputs of the network in PyTorch."""
    from orchestrator.records.records import DamagedRecord, read_result, recorded_ids

    store, folder = find_sweep(sweep, out)
    with errors():
        if trial not in (known := recorded_ids(folder)):
            fail(f"no finished trial {trial!r} in {folder}{nearest(trial, known)}")
        paths = SweepPaths(folder).trial(trial)
        store.download(paths.folder)
        try:
            result = read_result(paths.result)
        except DamagedRecord as error:
            fail(str(error))
        if result.status != "done":
            fail(f"trial {trial!r} ended as {result.status!r}: there is no network to export ({result.error})")
        from orchestrator.trial.exporting import ExportError, export_trial

        try:
            exported = export_trial(paths.folder, result.spec.data, form)
        except ExportError as error:
            fail(str(error))
    OUT.print(str(exported.path), soft_wrap=True, markup=False)
    OUT.print(f"largest difference to PyTorch's outputs on {exported.images}: {exported.difference:.2g}")
    OUT.print(
        f"one image on this CPU: {form} {exported.exported.median:.3f} ms, "
        f"PyTorch {exported.pytorch.median:.3f} ms (medians of {exported.exported.rounds})"
    )


@app.command()
def register(sweep: SweepName, out: StoreOption = RUNS) -> None:
    """Register the networks on the Pareto front in MLflow's model registry. Exit 1: some cannot be exported."""
    from orchestrator.records.mlflow.view import MlflowFailure
    from orchestrator.records.parquet import NoSuchSweep
    from orchestrator.records.records import DamagedRecord
    from orchestrator.sweep.registration import register as register_front

    with errors():
        try:
            registration = register_front(*find_sweep(sweep, out))
        except (DamagedRecord, NoSuchSweep) as error:
            fail(str(error))
        except MlflowFailure as failure:
            fail(f"MLflow: {failure}; when that is mended: prunesweep sync {sweep}, and register again")
    name, versions = registration.name, registration.registered
    for line in registration.left_out:
        ERR.print(f"warning: not registered: {line}", markup=False, soft_wrap=True)
    for version in versions:
        state = "new" if version.new else "there already"
        OUT.print(f"{name} version {version.version}: trial {version.trial_id} ({state})", soft_wrap=True, markup=False)
    OUT.print(f"{len(versions)} of {registration.front} networks on the front", soft_wrap=True, markup=False)
    if registration.left_out:
        raise typer.Exit(1)
