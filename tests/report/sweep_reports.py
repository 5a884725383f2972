"""Reports of sweeps in folders: the store is the folder's parent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.report.data import ReportData, load_report_data
from orchestrator.report.document import write_report
from orchestrator.storage.store import Store


def report_data(folder: Path) -> ReportData:
    return load_report_data(Store(folder.parent), folder)


def report_page(folder: Path, others: Sequence[Path] = ()) -> Path:
    return write_report(Store(folder.parent), folder, [(Store(other.parent), other) for other in others])
