"""Write the page, the figures and the tables of a report into the sweep's folder."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from shutil import which
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from plotly.offline import get_plotlyjs

from orchestrator.report import formatting, table_formats, tables
from orchestrator.report.charts import sweep_comparison, training
from orchestrator.report.charts.importances import design_bars, importance_bars, interaction
from orchestrator.report.charts.model import Chart
from orchestrator.report.charts.to_plotly import figure
from orchestrator.report.charts.trade_offs import speed_up, trade_offs
from orchestrator.report.checklist import checks
from orchestrator.report.conclusions import Conclusions, conclude
from orchestrator.report.data import ReportData, load_report_data
from orchestrator.report.importances import ReportImportances, estimate_importances
from orchestrator.report.svg import draw
from orchestrator.report.table_formats import Table
from orchestrator.spec.redacting import redacted
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths

MOST_ROWS = 300
"""Number of rows of a table that the page shows; the table's files have all."""

OPENED = frozenset({"best_and_runner_up", "budgets", "settings", "not_finished", "beside"})
"""Keys of the tables that the page shows unfolded."""


@dataclass(frozen=True)
class Section:
    """A part of the page, left out if it is empty."""

    key: str
    title: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    text: str = ""


def write_report(store: Store, folder: Path, others: Sequence[tuple[Store, Path]] = ()) -> Path:
    """Write ``report/index.html``, ``report/figures`` and ``report/tables``; return the path of the page.

    Args:
        store: the store.
        folder: the sweep's folder in it.
        others: stores and folders of sweeps to compare it with.

    Raises:
        Unreportable: a sweep has no ended trial, or an unreadable record.
        SpecError: a ``searchspace.yaml`` is invalid.
    """
    data = load_report_data(store, folder)
    importances = estimate_importances(data)
    conclusions = conclude(data, importances.values)
    sections = _sections(data, conclusions, importances, [load_report_data(*other) for other in others])
    report = SweepPaths(folder).report
    for section in sections:
        for chart in section.charts:
            _write_figure(store, report / "figures", chart)
        for table in section.tables:
            _write(store, report / "tables" / f"{table.key}.csv", table_formats.as_csv(table))
            _write(store, report / "tables" / f"{table.key}.md", table_formats.as_markdown(table))
            _write(store, report / "tables" / f"{table.key}.tex", table_formats.as_latex(table))
    _write(store, report / "index.html", page(data, conclusions, sections))
    return report / "index.html"


def page(data: ReportData, conclusions: Conclusions, sections: Sequence[Section]) -> str:
    """Render the page as self-contained HTML, which fetches nothing from a network."""
    environment = Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=select_autoescape(["j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = formatting.unbroken
    charts = [chart for section in sections for chart in section.charts]
    figures = json.dumps({chart.key: figure(chart) for chart in charts}, allow_nan=False, separators=(",", ":"))
    return environment.get_template("report.html.j2").render(
        data=data,
        conclusions=conclusions,
        checks=checks(data),
        sections=sections,
        facts=facts(data),
        texts=table_formats.texts,
        numeric=table_formats.numeric,
        opened=OPENED,
        most_rows=MOST_ROWS,
        static={chart.key: draw(chart) for chart in charts},
        style=_template("report.css"),
        script=_template("report.js"),
        plotly=get_plotlyjs(),
        # An unescaped "</script>" in a name would end the script element that holds the figures.
        figures=figures.replace("<", "\\u003c"),
        searchspace=redacted(SweepPaths(data.folder).searchspace.read_text(encoding="utf-8")),
    )


def facts(data: ReportData) -> dict[str, str]:
    """Return what is needed to reproduce the sweep: versions, commit, machines, times."""
    rows = data.rows

    def distinct(name: str) -> str:
        return ", ".join(sorted({str(row[name]) for row in rows if row.get(name)}))

    times = [datetime.fromisoformat(row[name]) for row in rows for name in ("started", "ended") if row.get(name)]
    # The span, not the sum of the trials' times: a shared stage counts in each of its trials' rows.
    span = f"{min(times):%Y-%m-%d %H:%M} to {max(times):%Y-%m-%d %H:%M %Z}" if times else ""
    entries = {
        "command": f"prunesweep run {data.name}.yaml  # the search space below",
        "trials": f"{len(rows):,} ({len(data.done):,} finished), {len(data.settings):,} settings",
        "not in the current search space": f"{data.left_out:,} trials, left out" if data.left_out else "",
        "seeds": ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows if row.get("seed") is not None})),
        "ran": span,
        "commit": distinct("commit"),
        "versions": distinct("versions"),
        "device": distinct("device"),
        "latency measured on": distinct("latency_device"),
        "hosts": distinct("host"),
    }
    return {name: text for name, text in entries.items() if text}


def _sections(
    data: ReportData, conclusions: Conclusions, importances: ReportImportances, others: Sequence[ReportData]
) -> list[Section]:
    two = importances.two_greatest
    importance_charts: list[Chart | None] = [
        importance_bars(importances.values, data.metric_row),
        design_bars(importances.values, data.metric_row),
        interaction(data, *two) if two else None,
    ]
    training_charts = [*training.curves(data), training.retraining(data)]
    sections = [
        Section("targets", "Target by target", (), [tables.ranking_table(conclusions.rankings, data)]),
        Section(
            "trade-offs",
            "Trade-offs",
            trade_offs(data),
            [tables.budget_table(data), tables.pareto_table(data)],
        ),
        Section(
            "importances",
            "Which parameters matter",
            _present(importance_charts),
            [tables.importance_table(importances.values)],
            importances.note,
        ),
        Section("settings", "All settings", (), [tables.setting_table(data), tables.dense_table(data)]),
        Section("layers", "Layers", training.kept_shares(data), [tables.layer_table(data)]),
        Section("training", "Training", _present(training_charts)),
        Section("speed", "Speed", _present([speed_up(data)])),
        Section("failures", "Not finished", (), [tables.failure_table(data)]),
    ]
    if others:
        charts = sweep_comparison.trade_offs_with(data, others)
        pairs = sweep_comparison.pairs_table(data, others)
        note = "" if charts or pairs.rows else "The other sweeps have no network in common with this one."
        sections.append(Section("beside", "Comparison with other sweeps", charts, [pairs], note))
    filled = [replace(s, tables=[table for table in s.tables if table.rows]) for s in sections]
    return [section for section in filled if section.charts or section.tables or section.text]


def _present(charts: Sequence[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _write_figure(store: Store, folder: Path, chart: Chart) -> None:
    path = folder / f"{chart.key}.svg"
    _write(store, path, draw(chart))
    # librsvg's converter is optional: where it is installed, PNG files for slides are written too.
    converter = which("rsvg-convert")
    if converter is not None:
        command: list[Any] = [converter, "--zoom", "2", "--output", path.with_suffix(".png"), path]
        subprocess.run(command, check=False, capture_output=True)


def _write(store: Store, path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _template(name: str) -> str:
    return (files("orchestrator.report") / "templates" / name).read_text(encoding="utf-8")
