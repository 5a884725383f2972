"""The page carries all it needs, its tables and figures say what the rows say, and a browser draws it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_reports import report_data, report_page
from typer.testing import CliRunner

from orchestrator.analysis.load import load_results
from orchestrator.cli import app
from orchestrator.records.mlflow.view import log_report, make_database
from orchestrator.report import document
from orchestrator.report.charts import trade_offs, training
from orchestrator.report.charts.model import XY, Bars, Heat, Series
from orchestrator.report.charts.to_plotly import figure
from orchestrator.report.importances import ReportImportances
from orchestrator.report.svg import draw, ticks
from orchestrator.report.table_formats import Column, Table, as_csv, as_latex, as_markdown

MakeSweep = Callable[..., Path]


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forests are tested where they grow; here they would be half of the time."""
    monkeypatch.setattr(document, "estimate_importances", lambda data: ReportImportances())


@pytest.mark.usefixtures("quick")
def test_nothing_is_fetched(make_sweep: MakeSweep) -> None:
    path = report_page(make_sweep())
    text = path.read_text()
    tags = Tags(text)
    for tag, attributes in tags.tags:
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            value = attributes.get(name) or ""
            assert not value.startswith(("http:", "https:", "//")), (tag, value)
            if tag == "a" and value and not value.startswith("#"):
                assert (path.parent / value).exists(), value
    assert not any(tag == "script" and "src" in attributes for tag, attributes in tags.tags)
    policy = [a["content"] for t, a in tags.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert (policy[0] or "").startswith("default-src 'none'")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.usefixtures("quick")
def test_what_users_write_stays_text(make_sweep: MakeSweep, space_text: str) -> None:
    text = space_text.replace("Does it <matter>?", "</script><script>alert(1)</script>")
    page = report_page(make_sweep(text)).read_text()
    assert "<script>alert" not in page
    assert "&lt;/script&gt;" in page


@pytest.mark.usefixtures("quick")
def test_every_figure_has_its_data_and_its_drawing(make_sweep: MakeSweep) -> None:
    path = report_page(make_sweep())
    page = path.read_text()
    data = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    drawn = {a["data-figure"] for _, a in Tags(page).tags if a.get("data-figure")}
    files = {file.stem for file in (path.parent / "figures").glob("*.svg")}
    expected = {f"accuracy_by_{cost}" for cost in ("mac_sparsity", "param_sparsity", "latency_ms")}
    assert drawn == set(data) == files
    assert drawn == expected | {"speed_up", "kept_by_layer", "curves_retrain"}
    for file in (path.parent / "figures").glob("*.svg"):
        ET.fromstring(file.read_text())


@pytest.mark.usefixtures("quick")
def test_the_table_of_settings_is_the_rows_folded(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    rows = load_results(folder)
    path = report_page(folder)
    with open(path.parent / "tables" / "settings.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6
    for line in lines:
        share = float(line["asked to remove"].split(" %")[0]) / 100
        accuracies = [r["accuracy"] for r in rows if r["arm"] == line["arm"] and r["target_sparsity"] == share]
        assert float(line["accuracy"]) == pytest.approx(np.mean(accuracies))
        assert float(line["accuracy_sd"]) == pytest.approx(np.std(accuracies, ddof=1))
        assert int(line["accuracy_n"]) == len(accuracies) == int(line["n"])
    names = {file.name for file in (path.parent / "tables").iterdir()}
    for key in ("settings", "best_and_runner_up", "against_dense", "pareto", "layers", "budgets"):
        assert {f"{key}.csv", f"{key}.md", f"{key}.tex"} <= names


@pytest.mark.usefixtures("quick")
def test_a_metric_of_the_users_own_is_a_column(
    make_sweep: MakeSweep, space_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_metrics.py").write_text(
        "from orchestrator.metrics.extra import ExtraMetric, Networks\n\n\n"
        "class Agreement(ExtraMetric):\n"
        '    """Share of the images that the dense network classifies alike."""\n\n'
        '    column = "agreement"\n    unit = "share"\n    label = "agreement with the dense network"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)

    def numbers(trial: Any) -> dict[str, Any]:
        return {"accuracy": 0.9, "val_accuracy": 0.9, "agreement": 0.75 + 0.01 * trial.spec.seed}

    path = report_page(make_sweep(space_text + "metrics: ['own_metrics:Agreement']\n", numbers))
    head, _, first, *_ = (path.parent / "tables" / "settings.md").read_text().splitlines()
    assert "agreement with the dense network, %" in head
    assert "76.00 ± 1.00" in first
    with open(path.parent / "tables" / "settings.csv", newline="") as file:
        assert float(next(csv.DictReader(file))["agreement"]) == pytest.approx(0.76)


def test_trade_offs_show_the_front(make_sweep: MakeSweep) -> None:
    data = report_data(make_sweep())
    chart = trade_offs.trade_off(data, "mac_sparsity", data.networks[0])
    assert chart is not None
    points = {
        (
            100 * float(np.mean([r["mac_sparsity"] for r in s.rows])),
            100 * float(np.mean([r["accuracy"] for r in s.rows])),
        )
        for s in data.settings
    }
    best = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    (front,) = [series for series in chart.series if series.name == "Pareto front"]
    assert np.array(sorted(zip(front.x, front.y, strict=True))) == pytest.approx(np.array(sorted(best)))
    assert chart.level is not None
    assert chart.level[0] == pytest.approx(94.1)


def test_many_settings_are_thinned_but_for_the_front(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    data = report_data(make_sweep())
    whole = trade_offs.trade_off(data, "mac_sparsity", data.networks[0])
    monkeypatch.setattr(trade_offs, "MOST_POINTS", 3)
    thin = trade_offs.trade_off(data, "mac_sparsity", data.networks[0])
    assert whole is not None
    assert thin is not None
    assert "of 6 settings are drawn" in thin.caption
    fronts = [next(s for s in chart.series if s.name == "Pareto front") for chart in (whole, thin)]
    assert fronts[0] == fronts[1]
    drawn = {y for s in thin.series if s.name != "Pareto front" for y in s.y}
    assert set(fronts[0].y) <= drawn


def test_layers_and_curves_are_means_over_seeds(make_sweep: MakeSweep) -> None:
    data = report_data(make_sweep())
    (heat,) = training.kept_shares(data)
    assert isinstance(heat, Heat)
    shares = dict(zip(heat.columns, heat.values[0], strict=True))
    assert shares["l1_norm, 50 % of MACs"] == pytest.approx(0.5)
    assert shares["l1_norm, 75 % of MACs"] == pytest.approx(0.25)
    (chart,) = training.curves(data)
    assert isinstance(chart, XY)
    assert len(chart.series) == 6
    assert list(chart.series[0].y) == pytest.approx([80, 85])


def test_formats_of_a_table() -> None:
    table = Table(
        "t", "A_b", "", [Column("name & more"), Column("share, %", "x_sparsity")], [["a_b|c", 0.125], ["d", None]]
    )
    assert as_csv(table) == "name & more,x_sparsity\na_b|c,0.125\nd,\n"
    assert as_markdown(table).splitlines()[2] == "| a_b\\|c | 12.50 |"
    assert as_latex(table).splitlines()[1] == "\\begin{tabular}{lr}"
    assert "name \\& more & share, \\% \\\\" in as_latex(table)
    assert "a\\_b|c & 12.50 \\\\" in as_latex(table)


def test_round_marks() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(97.3, 99.2) == [97.5, 98, 98.5, 99]
    assert ticks(5, 5) == [5]


def test_a_drawing_puts_points_where_they_belong() -> None:
    series = Series("a<b", [0.0, 1.0], [10.0, 20.0], [9.0, 19.0], [11.0, 21.0], line="solid")
    chart = XY("k", "T & t", "", "x", "y", [series])
    root = ET.fromstring(draw(chart))
    circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    (x1, y1), (x2, y2) = ((float(c.get("cx", 0)), float(c.get("cy", 0))) for c in circles[:2])
    assert x1 < x2
    assert y1 > y2, "up is more"
    trace = figure(chart)["data"][0]
    assert trace["error_y"]["array"] == [1.0, 1.0]
    bars = Bars("b", "B", "", "share", ["a"], [Series("m", ["a"], [0.5], [0.4], [0.6])], (0.1, "noise"))
    heat = Heat("h", "H", "", ["conv1"], ["s"], [[None]], "% kept")
    for other in (bars, heat):
        ET.fromstring(draw(other))
        json.dumps(figure(other), allow_nan=False)


def test_bad_input_is_one_message(tmp_path: Path, make_sweep: MakeSweep) -> None:
    folder = make_sweep(skip=lambda trial: True)
    for name in ("nowhere", folder.name):
        result = CliRunner().invoke(app, ["report", name, "--out", str(folder.parent)])
        assert result.exit_code == 2, result.output
        assert result.output.count("error:") == 1


@pytest.mark.usefixtures("quick")
def test_other_sweeps_beside(make_sweep: MakeSweep, space_text: str) -> None:
    def better(trial: Any) -> dict[str, Any]:
        return {"accuracy": 0.95 + 0.001 * trial.spec.seed, "val_accuracy": 0.95}

    ours_folder = make_sweep()
    other = make_sweep(space_text.replace("name: invented", "name: second"), better)
    path = report_page(ours_folder, [other])
    with open(path.parent / "tables" / "beside.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6
    ours = {(r["arm"], r["target_sparsity"], r["seed"]): r["accuracy"] for r in load_results(ours_folder)}
    expected = np.mean([ours["taylor", 0.5, seed] - 0.95 - 0.001 * seed for seed in range(3)])
    (line,) = [line for line in lines if line["setting"] == "taylor, 50 % of MACs"]
    assert float(line["difference"]) == pytest.approx(expected)
    assert line["other sweep"] == "second"


@pytest.mark.usefixtures("quick")
def test_the_page_goes_to_the_parent_run(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    page = report_page(make_sweep())
    folder = page.parent.parent
    store = folder.parent
    assert not log_report(store, folder.name, page), "a store without MLflow stays without"
    make_database(store / "mlflow.db")
    assert log_report(store, folder.name, page)
    (logged,) = (store / "mlartifacts").rglob("index.html")
    assert logged.read_bytes() == page.read_bytes()


BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_draws_it_without_a_complaint(make_sweep: MakeSweep) -> None:
    path = report_page(make_sweep())
    browser = subprocess.run(
        [
            str(BROWSER),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"),
            *("--window-size=1200,9000", "--virtual-time-budget=8000", "--dump-dom"),
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in browser.stderr, browser.stderr
    assert browser.stdout.count('class="main-svg"') >= browser.stdout.count("data-figure=") > 0
