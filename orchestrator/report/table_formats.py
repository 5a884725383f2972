"""Represent a table as a value and format it as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.analysis.aggregate import Mean
from orchestrator.report import formatting
from orchestrator.report.formatting import MetricLike
from orchestrator.spec.metric import Metric

Cell = str | int | float | Mean | None


@dataclass(frozen=True)
class Column:
    """A column: its title on the page and its name in CSV."""

    title: str
    metric: MetricLike = ""
    """The metric whose format its numbers take; empty for text and counts."""
    name: str = ""
    """The name in CSV; if empty, that of the metric or the title."""
    kind: Literal["value", "difference", "p", "d"] = "value"
    """Whether its numbers are values or differences of the metric, p-values, or effect sizes."""

    @property
    def csv_name(self) -> str:
        return self.name or (self.metric.name if isinstance(self.metric, Metric) else self.metric) or self.title


@dataclass(frozen=True)
class Table:
    """Rows of cells with titled columns."""

    key: str
    """Name of its files."""
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def difference_column(metric: MetricLike) -> Column:
    """Return the column of the difference of a metric."""
    unit = ", points" if formatting.is_share(metric) else ""
    return Column(f"difference{unit}", metric, "difference", "difference")


def as_csv(table: Table) -> str:
    """Format as CSV with unrounded numbers; a mean takes five columns: mean, sd, n, low, high."""
    head: list[str] = []
    wide = _with_means(table)
    for i, column in enumerate(table.columns):
        title = column.csv_name
        head += [title, *(f"{title}_{part}" for part in ("sd", "n", "low", "high"))] if i in wide else [title]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(head)
    for row in table.rows:
        line: list[Any] = []
        for i, cell in enumerate(row):
            if isinstance(cell, Mean):
                line += [cell.mean, cell.sd, cell.n, cell.low, cell.high]
            else:
                line += [cell, *([None] * 4 if i in wide else [])]
        out.writerow(line)
    return text.getvalue()


def as_markdown(table: Table) -> str:
    """Format as Markdown with the texts of the page."""
    lines = [[column.title for column in table.columns], ["---:" if n else "---" for n in numeric(table)]]
    lines += [texts(table, row) for row in table.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def as_latex(table: Table) -> str:
    """Format as a LaTeX ``tabular`` with the rules of booktabs."""
    form = "".join("r" if is_number else "l" for is_number in numeric(table))
    lines = [f"% {table.title}. Needs \\usepackage{{booktabs}}.", f"\\begin{{tabular}}{{{form}}}", "\\toprule"]
    lines.append(" & ".join(_tex(column.title) for column in table.columns) + r" \\")
    lines.append("\\midrule")
    lines += [" & ".join(_tex(cell) for cell in texts(table, row)) + r" \\" for row in table.rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def texts(table: Table, row: Sequence[Cell]) -> list[str]:
    """Format the cells of a row: means with their standard deviation, shares in percent."""
    return [_format_cell(cell, column) for cell, column in zip(row, table.columns, strict=True)]


def _format_cell(cell: Cell, column: Column) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Mean):
        return formatting.mean_sd(cell, column.metric)
    if isinstance(cell, float):
        if column.kind == "p":
            return formatting.p_value(cell).removeprefix("p = ").removeprefix("p ")
        if column.kind == "d":
            return f"{cell:.2f}".replace("-", "−")
        if column.kind == "difference":
            return formatting.difference(cell, column.metric).removesuffix(" points")
        return formatting.shown(cell, column.metric).removesuffix(" %")
    return f"{cell:,}" if isinstance(cell, int) else cell


def _with_means(table: Table) -> set[int]:
    return {i for row in table.rows for i, cell in enumerate(row) if isinstance(cell, Mean)}


def numeric(table: Table) -> list[bool]:
    """Return, for each column, whether it holds numbers only."""
    return [
        bool(table.rows) and all(not isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))
    ]


def _tex(text: str) -> str:
    if " ± " in text:
        mean, _, sd = text.partition(" ± ")
        return f"${mean} \\pm {sd}$"
    for character, escaped in (
        ("\\", r"\textbackslash "),
        ("&", r"\&"),
        ("%", r"\%"),
        ("_", r"\_"),
        ("#", r"\#"),
        ("$", r"\$"),
    ):
        text = text.replace(character, escaped)
    return text.replace("<", "$<$").replace("−", "$-$")
