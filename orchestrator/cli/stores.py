"""Commands for stores and for the names in search spaces: sync, gc, ui, list."""

from __future__ import annotations

import json
import os
import sys
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


@app.command()
def sync(sweep: SweepName, out: StoreOption = RUNS) -> None:
    """Rebuild MLflow and Parquet from the records, e.g. after MLflow was unreachable. Exit 1: it still is."""
    from orchestrator.storage.driver_lock import SweepLocked
    from orchestrator.sweep.maintenance.rebuild_views import sync as rebuild_views

    with errors():
        try:
            views = rebuild_views(*find_sweep(sweep, out))
        except SweepLocked as busy:
            fail(str(busy))
    for warning in views.warnings:
        ERR.print(f"warning: {warning}", markup=False, soft_wrap=True)
    deleted = f", {views.discarded} runs without a record deleted" if views.discarded else ""
    OUT.print(f"{views.trials} records; Parquet, and MLflow at {views.uri}{deleted}", soft_wrap=True, markup=False)
    if views.warnings:
        raise typer.Exit(1)


@app.command()
def gc(
    out: StoreOption = RUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed; remove nothing.")] = False,
) -> None:
    """Remove stage outputs that no sweep of the store needs, and leftovers of killed processes."""
    from orchestrator.sweep.maintenance.garbage import clean, summary_lines

    if out.bucket is None and not out.folder.is_dir():
        fail(f"no store at {out.address!r}")
    with errors():
        removed = clean(out, dry_run=dry_run)
    for line in summary_lines(out, removed, dry_run=dry_run):
        OUT.print(line, soft_wrap=True, markup=False)


@app.command()
def ui(
    out: StoreOption = RUNS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Start MLflow's user interface on the store."""
    from orchestrator.records.mlflow.view import tracking_uri

    if not os.environ.get("MLFLOW_TRACKING_URI") and not (out.folder / "mlflow.db").exists():
        if out.bucket is not None:
            fail(f"no MLflow database on this machine: prunesweep sync SWEEP --out {out.address} makes it from records")
        fail(f"{out.folder / 'mlflow.db'} is not there: run a sweep first, or name its store with --out")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    # exec replaces this process, so that signals and the exit code are the server's own. The URI goes into the
    # environment, because it may contain the database's password and every user can read a command line.
    os.execve(sys.executable, command, os.environ | {"MLFLOW_BACKEND_STORE_URI": tracking_uri(out.folder)})


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(metavar="methods|models|data|schedules|metrics|searches|plans|papers")],
    as_json: AsJson = False,
) -> None:
    """List the names that a search space may use, with parameters, defaults and sources."""
    from orchestrator.cli.catalogue import KINDS, catalogue

    if what not in KINDS:
        fail(f"unknown list {what!r}{nearest(what, KINDS)}")
    entries = catalogue(what)
    if as_json:
        print(json.dumps(entries, indent=2))
        return
    columns = list(entries[0]) if entries else []
    table = Table(show_lines=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    for entry in entries:
        # As Text, because the brackets of list[float] would be read as markup.
        table.add_row(*(Text(cell(entry[column])) for column in columns))
    OUT.print(table)
