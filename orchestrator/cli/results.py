"""What sweeps found: compare, report, export."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.app import (
    ERR,
    OUT,
    AsJson,
    Store,
    SweepName,
    app,
    cell,
    errors,
    fail,
    sweep_folder,
)
from orchestrator.records.bucket_sync import refresh_trial
from orchestrator.spec.errors import nearest


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

    folder = sweep_folder(sweep, out)
    with errors():
        try:
            found = beside(load_results(folder), paper, table)
            printed = printed_table(paper, table)
        except NoSuchTable as error:
            fail(str(error))
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
        shown.add_row(*(Text(cell(value)) for value in (row.row, row.column, row.printed, mean, delta, row.note)))
    OUT.print(shown)
    for trend in order:
        verdict = {True: "holds", False: "does not hold", None: "cannot be told"}[trend.holds]
        OUT.print(f"order of the rows by {trend.column}: {verdict} (n = {trend.n}, Kendall {trend.kendall})")
    for flag in printed.flags:
        OUT.print(Text(f"printed inconsistency: {flag}"))


@app.command()
def report(
    sweep: SweepName,
    out: Store = Path("runs"),
    beside: Annotated[list[str] | None, typer.Option("--compare", help="Another sweep (repeatable).")] = None,
) -> None:
    """One self-contained page with the answer, figures and tables: report/index.html in the sweep's folder."""
    from orchestrator.records.mlflow.view import MlflowFailure, log_report
    from orchestrator.report.document import write_report

    folder = sweep_folder(sweep, out).resolve()
    with errors():
        page = write_report(folder, [sweep_folder(other, out) for other in beside or []])
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
    out: Store = Path("runs"),
) -> None:
    """The pruned network as one file, checked against the outputs of the network it is made from."""
    from orchestrator.records.records import DamagedRecord, read_result, recorded_ids

    folder = sweep_folder(sweep, out)
    with errors():
        if trial not in (known := recorded_ids(folder)):
            fail(f"no finished trial {trial!r} in {folder}{nearest(trial, known)}")
        place = folder / "trials" / trial
        refresh_trial(place)
        try:
            result = read_result(place / "result.json")
        except DamagedRecord as error:
            fail(str(error))
        if result.status != "done":
            fail(f"trial {trial!r} ended as {result.status!r}: there is no network to export ({result.error})")
        from orchestrator.trial.exporting import ExportError, export_trial

        try:
            found = export_trial(place, result.spec.data, form)
        except ExportError as error:
            fail(str(error))
    OUT.print(str(found.path), soft_wrap=True, markup=False)
    OUT.print(f"largest difference to PyTorch's outputs on {found.images}: {found.difference:.2g}")
    OUT.print(
        f"one image on this CPU: {form} {found.exported.median:.3f} ms, "
        f"PyTorch {found.pytorch.median:.3f} ms (medians of {found.exported.rounds})"
    )


@app.command()
def register(sweep: SweepName, out: Store = Path("runs")) -> None:
    """The networks on the front as versions in MLflow's model registry. Exit 1: some cannot be exported."""
    from orchestrator.records.mlflow.view import MlflowFailure
    from orchestrator.records.parquet import NoSuchSweep
    from orchestrator.records.records import DamagedRecord
    from orchestrator.sweep.registration import register as register_front

    folder = sweep_folder(sweep, out)
    with errors():
        try:
            done = register_front(folder)
        except (DamagedRecord, NoSuchSweep) as error:
            fail(str(error))
        except MlflowFailure as failure:
            fail(f"MLflow: {failure}; when that is mended: prunesweep sync {sweep}, and register again")
    for line in done.left_out:
        ERR.print(f"warning: not registered: {line}", markup=False, soft_wrap=True)
    for one in done.registered:
        state = "new" if one.new else "there already"
        OUT.print(f"{done.name} version {one.version}: trial {one.trial_id} ({state})", soft_wrap=True, markup=False)
    OUT.print(f"{len(done.registered)} of {done.front} networks on the front", soft_wrap=True, markup=False)
    if done.left_out:
        raise typer.Exit(1)
