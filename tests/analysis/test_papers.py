"""The printed tables: complete, flagged, and recomputing what they print."""

import json
import os
from pathlib import Path

import pytest

from orchestrator.analysis.aggregate import mean_of
from orchestrator.analysis.papers import NoSuchTable, paper, papers, table, tables


def test_all_five_papers_and_their_tables() -> None:
    assert list(papers()) == ["000", "001", "002", "003", "004"]
    assert tables("004") == ["1", "2", "3", "4", "5", "6"]
    assert [len(table("000", n).rows) for n in (1, 2, 3, 4)] == [10, 10, 5, 13]
    assert {row["group"] for row in table("002", 4).rows} == {"LeNet_300_100", "LeNet_5"}
    for name in papers():
        for number in tables(name):
            assert all(isinstance(row["flags"], tuple) for row in table(name, number).rows)
            assert paper(name)["provenance_key"]["CONFIRMED"]


def test_the_package_holds_what_the_source_says() -> None:
    shared = Path(os.environ.get("PRUNESWEEP_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    source = shared / "papers" / "tables.json"
    if not source.exists():
        pytest.skip("the tables' source is not at hand")
    recorded = json.loads(source.read_text())
    for name in papers():
        own = {key: value for key, value in paper(name).items() if key not in ("provenance_key", "inconsistencies")}
        assert own == recorded[name]
        assert paper(name)["provenance_key"] == recorded["provenance_key"]


def test_table_5_of_004_recomputes_its_means_and_sample_deviations() -> None:
    printed = table("004", 5)
    assert len(printed.rows) == 10
    wanted = {"accuracy_pct": "92.17 ± 0.25", "flop_sparsity_pct": "50.07 ± 2.70", "param_sparsity_pct": "91.18 ± 1.68"}
    for column, text in wanted.items():
        mean = mean_of(row[column] for row in printed.rows)
        assert mean is not None
        assert mean.sd is not None
        assert f"{mean.mean:.2f} ± {mean.sd:.2f}" == text
        assert printed.content["mean_std"][column] == [round(mean.mean, 2), round(mean.sd, 2)]


def test_rates_of_000_follow_from_its_layers() -> None:
    for number, column, rate in ((3, "pruned_A", 40.2), (3, "pruned_B", 64.5), (4, "pruned_B", 66.6)):
        rows = table("000", number).rows
        share = sum(row[column] for row in rows) / sum(row["base_filters"] for row in rows)
        assert int(1000 * share) / 10 == rate


def test_errors_of_002_differ_by_their_printed_delta() -> None:
    for row in table("002", 1).rows:
        assert row["final_error_pct"] - row["original_error_pct"] == pytest.approx(row["delta_error_pct"], abs=1e-6)


def test_what_is_wrong_in_print_is_flagged() -> None:
    def flags(name: str, number: int, **values: object) -> str:
        (row,) = [row for row in table(name, number).rows if values.items() <= row.items()]
        return " ".join(row["flags"])

    assert "3.13" in flags("000", 1, network="VGG-16", configuration="baseline")
    assert "75 %" in flags("000", 1, network="ConvNet", configuration="B-L1")
    assert "fit neither" in flags("000", 2, network="ResNet-32", configuration="prune A")
    assert flags("000", 2, network="VGG-16", configuration="prune A") == ""
    assert "1.76" in flags("002", 1, method="Random")
    assert "73.03" in flags("001", 2, pruned_model="ResNet-34-A")
    assert "quantisation" in flags("003", 4, method="Soft weight-sharing (Ullrich 2017)", model="LeNet-5")
    assert "two networks" in table("003", 2).flags[0]
    assert "ambiguous" in table("004", 3).flags[0]
    assert table("004", 1).rows == ()
    assert "caption" in table("004", 1).flags[0]


def test_every_doubt_is_about_rows_that_exist() -> None:
    for name in papers():
        for doubt in paper(name)["inconsistencies"]:
            rows = table(name, doubt["table"]).rows
            assert not doubt["rows"] or any(doubt["what"] in row["flags"] for row in rows), doubt


def test_unknown_names_are_refused() -> None:
    with pytest.raises(NoSuchTable, match="no tables of '005'"):
        paper("005")
    with pytest.raises(NoSuchTable, match="paper 001 has no table '5'; known: 2, 3, 4"):
        table("001", 5)
