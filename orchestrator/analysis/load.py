"""Load a sweep's records as plain rows from its Parquet view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.records.parquet import load_table
from orchestrator.storage.store import Store
from orchestrator.storage.uri import is_uri, store_folder


def load_results(sweep: str | Path) -> list[dict[str, Any]]:
    """Return one mapping per trial with the columns of ``trials.parquet``, after updating the view.

    Args:
        sweep: the sweep's folder, e.g. ``runs/quickstart``, or its URI, from which new records are fetched first.
    """
    folder = store_folder(sweep)
    if is_uri(sweep):
        Store.open(sweep).refresh(folder)
    rows: list[dict[str, Any]] = load_table(folder).to_pylist()
    return rows
