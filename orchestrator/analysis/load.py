"""A sweep's records as plain rows, read from its Parquet view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.records.bucket_sync import refresh
from orchestrator.records.parquet import load_results as _table
from orchestrator.storage.uri import is_uri, store_folder


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
