"""A sweep's records as plain rows, read from its Parquet view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.spec.store_uri import is_uri
from orchestrator.spec.workspace import store_folder
from orchestrator.store.mirror import refresh
from orchestrator.store.parquet import load_results as _table


def load_results(sweep: str | Path) -> list[dict[str, Any]]:
    """One mapping a trial, with the columns of ``trials.parquet``; the view is brought up to date first.

    Args:
        sweep: the sweep's folder, e.g. ``runs/quickstart``, or its URI, which is read afresh.
    """
    folder = store_folder(sweep)
    if is_uri(sweep):
        refresh(folder)
    rows: list[dict[str, Any]] = _table(folder).to_pylist()
    return rows
