"""The page, the figures and the tables of a report, written beside the sweep's records."""

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

from orchestrator.report import formatting as wording
from orchestrator.report import table_formats as spelling
from orchestrator.report import tables
from orchestrator.report.charts import importances as parameters
from orchestrator.report.charts import sweep_comparison as beside
from orchestrator.report.charts import trade_offs as figures
from orchestrator.report.charts import training
from orchestrator.report.charts.model import Chart
from orchestrator.report.charts.to_plotly import figure
from orchestrator.report.checklist import checks
from orchestrator.report.conclusions import Answer, answer
from orchestrator.report.data import ReportData, gather
from orchestrator.report.importances import Sampled, sampled
from orchestrator.report.svg import draw
from orchestrator.report.table_formats import Table
from orchestrator.spec.redacting import redacted
from orchestrator.storage.atomic import replacing

MOST_ROWS = 300
"""Rows of a table on the page; the files have all."""

OPENED = frozenset({"best_and_runner_up", "budgets", "settings", "not_finished", "beside"})
"""Tables that are shown at once; a click opens the others."""


@dataclass(frozen=True)
class Section:
    """A part of the page; shown where it has anything to show."""

    key: str
    title: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    text: str = ""


def write_report(folder: Path, others: Sequence[Path] = ()) -> Path:
    """Write ``report/index.html``, ``report/figures`` and ``report/tables``; returns the page.

    Args:
        folder: the sweep's.
        others: folders of sweeps to lay beside it.

    Raises:
        Unreportable: a sweep without an ended trial, or with a record that cannot be read.
        SpecError: a ``searchspace.yaml`` that cannot be used.
    """
    evidence = gather(folder)
    importances = sampled(evidence)
    said = answer(evidence, importances.values)
    sections = _sections(evidence, said, importances, [gather(other) for other in others])
    place = folder / "report"
    for section in sections:
        for chart in section.charts:
            _write_figure(place / "figures", chart)
        for table in section.tables:
            for ending, text in (("csv", spelling.as_csv), ("md", spelling.as_markdown), ("tex", spelling.as_latex)):
                _write(place / "tables" / f"{table.key}.{ending}", text(table))
    _write(place / "index.html", page(evidence, said, sections))
    return place / "index.html"


def page(evidence: ReportData, said: Answer, sections: Sequence[Section]) -> str:
    """The whole page as HTML: nothing in it is fetched from anywhere."""
    environment = Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=select_autoescape(["j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = wording.unbroken
    charts = [chart for section in sections for chart in section.charts]
    data = json.dumps({chart.key: figure(chart) for chart in charts}, allow_nan=False, separators=(",", ":"))
    return environment.get_template("report.html.j2").render(
        evidence=evidence,
        answer=said,
        checks=checks(evidence),
        sections=sections,
        facts=facts(evidence),
        texts=spelling.texts,
        numeric=spelling.numeric,
        opened=OPENED,
        most_rows=MOST_ROWS,
        static={chart.key: draw(chart) for chart in charts},
        style=_template("report.css"),
        script=_template("report.js"),
        plotly=get_plotlyjs(),
        # A tag within the data would end the script that holds them.
        data=data.replace("<", "\\u003c"),
        searchspace=redacted((evidence.folder / "searchspace.yaml").read_text(encoding="utf-8")),
    )


def facts(evidence: ReportData) -> dict[str, str]:
    """What one needs to know to run it again: versions, commit, machines, times."""
    rows = evidence.rows

    def distinct(*names: str) -> str:
        found = {str(row[name]) for name in names for row in rows if row.get(name)}
        return ", ".join(sorted(found))

    moments = [datetime.fromisoformat(row[name]) for row in rows for name in ("started", "ended") if row.get(name)]
    # Stages that trials share are in every one of their rows: their sum is no cost of the sweep's.
    span = f"{min(moments):%Y-%m-%d %H:%M} to {max(moments):%Y-%m-%d %H:%M %Z}" if moments else ""
    found = {
        "command": f"prunesweep run {evidence.name}.yaml  # the search space below",
        "trials": f"{len(rows):,} ({len(evidence.done):,} finished), {len(evidence.settings):,} settings",
        "not of the present search space": f"{evidence.left_out:,} trials, left out" if evidence.left_out else "",
        "seeds": ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows if row.get("seed") is not None})),
        "ran": span,
        "commit": distinct("commit"),
        "versions": distinct("versions"),
        "device": distinct("device"),
        "latency measured on": distinct("latency_device"),
        "hosts": distinct("host"),
    }
    return {name: text for name, text in found.items() if text}


def _sections(evidence: ReportData, said: Answer, importances: Sampled, others: Sequence[ReportData]) -> list[Section]:
    two = importances.two_greatest
    matters: list[Chart | None] = [
        parameters.importance_bars(importances.values, evidence.metric),
        parameters.design_bars(importances.values, evidence.metric),
        parameters.interaction(evidence, *two) if two else None,
    ]
    inside = [*training.curves(evidence), training.retraining(evidence)]
    found = [
        Section("targets", "Target by target", (), [tables.contest_table(said.contests, evidence)]),
        Section(
            "trade-offs",
            "Trade-offs",
            figures.trade_offs(evidence),
            [tables.budget_table(evidence), tables.pareto_table(evidence)],
        ),
        Section(
            "importances",
            "What matters",
            _there(matters),
            [tables.importance_table(importances.values)],
            importances.note,
        ),
        Section("settings", "All settings", (), [tables.setting_table(evidence), tables.dense_table(evidence)]),
        Section("layers", "Layers", training.kept_shares(evidence), [tables.layer_table(evidence)]),
        Section("training", "Training", _there(inside)),
        Section("speed", "Speed", _there([figures.speed_up(evidence)])),
        Section("failures", "Not finished", (), [tables.failure_table(evidence)]),
    ]
    if others:
        charts = beside.together(evidence, others)
        pairs = beside.pairs_table(evidence, others)
        none = "" if charts or pairs.rows else "The other sweeps have no network in common with this one."
        found.append(Section("beside", "Beside other sweeps", charts, [pairs], none))
    full = [replace(s, tables=[table for table in s.tables if table.rows]) for s in found]
    return [section for section in full if section.charts or section.tables or section.text]


def _there(charts: Sequence[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _write_figure(folder: Path, chart: Chart) -> None:
    path = folder / f"{chart.key}.svg"
    _write(path, draw(chart))
    # Not a dependency: where librsvg's converter is installed, there are pictures for slides too.
    converter = which("rsvg-convert")
    if converter is not None:
        command: list[Any] = [converter, "--zoom", "2", "--output", path.with_suffix(".png"), path]
        subprocess.run(command, check=False, capture_output=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _template(name: str) -> str:
    return (files("orchestrator.report") / "templates" / name).read_text(encoding="utf-8")
