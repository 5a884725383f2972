"""The Parquet views say what the records say, in the columns of the public contract."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.records import DamagedRecord, Latency, write_latency, write_result
from orchestrator.records.parquet import NoSuchSweep, load_table, write_views
from orchestrator.storage.store import Store

BEFORE_POINT = [
    "sweep",
    "trial_id",
    "status",
    "error",
    "seed",
    "model",
    "data",
    "method",
    "retrain",
    "target_quantity",
    "target_sparsity",
]
AFTER_POINT = [
    "dense_accuracy",
    "pruned_accuracy",
    "accuracy",
    "accuracy_drop",
    "val_accuracy",
    "top5_accuracy",
    "dense_params",
    "params",
    "param_sparsity",
    "compression_ratio",
    "dense_macs",
    "macs",
    "mac_sparsity",
    "filter_sparsity",
    "weight_sparsity",
    "latency_ms",
    "latency_ms_std",
    "dense_latency_ms",
    "dense_latency_ms_std",
    "latency_speedup",
    "seconds_baseline",
    "seconds_importance",
    "seconds_sparse_training",
    "seconds_retrain",
    "device",
    "host",
    "started",
    "ended",
    "commit",
    "versions",
]
LAYERS = [
    "trial_id",
    "layer",
    "kind",
    "dense_channels",
    "kept_channels",
    "dense_params",
    "params",
    "dense_macs",
    "macs",
    "nonzero",
]
EPOCHS = ["trial_id", "stage", "epoch", "lr", "train_loss", "train_accuracy", "val_accuracy", "seconds"]


def record(sweep, *results):
    for result in results:
        assert write_result(Store(sweep.parent), sweep / "trials" / result.trial_id, result)


def table(sweep, name):
    return pq.read_table(sweep / "parquet" / f"{name}.parquet")


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_columns_of_the_contract_are_there_in_order_and_typed(tmp_path, make_result, count):
    record(tmp_path, *(make_result(seed) for seed in range(count)))
    assert write_views(Store(tmp_path), tmp_path) == count
    trials = table(tmp_path, "trials")
    varied = ["target.sparsity"] if count else []
    assert trials.column_names[: len(BEFORE_POINT + varied + AFTER_POINT)] == BEFORE_POINT + varied + AFTER_POINT
    assert table(tmp_path, "epochs").column_names == EPOCHS
    assert table(tmp_path, "layers").column_names == LAYERS
    types = {"sweep": pa.string(), "error": pa.string(), "seed": pa.int64(), "params": pa.int64()}
    types |= {"accuracy": pa.float64(), "latency_ms": pa.float64(), "seconds_importance": pa.float64()}
    assert {name: trials.schema.field(name).type for name in types} == types


def test_the_views_equal_the_records(tmp_path, make_result):
    results = sorted((make_result(seed, epochs=seed) for seed in range(5)), key=lambda result: result.trial_id)
    record(tmp_path, *results)
    latency = Latency(latency_ms=2.0, latency_ms_std=0.1, dense_latency_ms=4.0, latency_speedup=2.0, host="gpu1")
    write_latency(Store(tmp_path), tmp_path / "trials" / results[0].trial_id, latency)
    write_views(Store(tmp_path), tmp_path)
    for row, result in zip(table(tmp_path, "trials").to_pylist(), results, strict=True):
        assert {name: row[name] for name in result.row()} == result.row()
        assert row["sweep"] == tmp_path.name
        assert row["target.sparsity"] == 0.5
    first = table(tmp_path, "trials").to_pylist()[0]
    assert (first["latency_ms"], first["dense_latency_ms_std"], first["latency_host"]) == (2.0, None, "gpu1")
    assert table(tmp_path, "trials").to_pylist()[1]["latency_ms"] is None
    for name, rows in (("epochs", "epochs"), ("layers", "layers")):
        expected = [{"trial_id": r.trial_id} | row.model_dump() for r in results for row in getattr(r, rows)]
        assert table(tmp_path, name).to_pylist() == expected


def test_a_varied_parameter_keeps_its_kind_and_never_hides_a_fixed_column(tmp_path, make_result):
    points = [
        {"seed": 9, "whole": 1, "real": 1, "mixed": 0.5, "flag": True, "kept": [1, 2], "none": None, "accuracy": 7},
        {"retrain": {"name": "clr", "high": 0.1}, "whole": 2, "real": 0.5, "mixed": "auto", "flag": False, "huge": 2},
    ]
    record(tmp_path, *(make_result(seed, point=point) for seed, point in enumerate(points)))
    write_views(Store(tmp_path), tmp_path)
    trials = table(tmp_path, "trials")
    by_seed = {row["seed"]: row for row in trials.to_pylist()}
    assert len(trials.column_names) == len(set(trials.column_names))
    assert trials.schema.field("whole").type == pa.int64()
    assert [by_seed[i]["real"] for i in (0, 1)] == [1.0, 0.5]
    assert [by_seed[i]["mixed"] for i in (0, 1)] == ["0.5", "auto"]
    assert [by_seed[i]["flag"] for i in (0, 1)] == [True, False]
    assert [by_seed[i]["kept"] for i in (0, 1)] == ["[1, 2]", None]
    assert [by_seed[i]["retrain"] for i in (0, 1)] == ["fine_tune", "fine_tune"]
    assert [by_seed[i]["retrain.high"] for i in (0, 1)] == [None, 0.1]
    assert by_seed[0]["accuracy"] == 0.875


def test_nothing_is_written_where_nothing_changed(tmp_path, make_result):
    record(tmp_path, make_result(0))

    def modified_times():
        return {path.name: path.stat().st_ino for path in (tmp_path / "parquet").iterdir()}

    write_views(Store(tmp_path), tmp_path)
    before = modified_times()
    assert write_views(Store(tmp_path), tmp_path) == 1
    assert modified_times() == before
    write_latency(
        Store(tmp_path), tmp_path / "trials" / make_result(0).trial_id, Latency(latency_ms=1.0, latency_ms_std=0.1)
    )
    assert write_views(Store(tmp_path), tmp_path) == 1
    assert modified_times() != before
    record(tmp_path, make_result(1))
    assert write_views(Store(tmp_path), tmp_path) == 2
    assert sorted(modified_times()) == ["epochs.parquet", "layers.parquet", "trials.parquet"]


def test_a_diverged_trial_has_its_row(tmp_path, make_result):
    record(tmp_path, make_result(status="diverged", error="NaN loss", metrics={"accuracy": math.nan}, achieved=None))
    write_views(Store(tmp_path), tmp_path)
    (row,) = table(tmp_path, "trials").to_pylist()
    assert (row["status"], row["error"], row["params"]) == ("diverged", "NaN loss", None)
    assert math.isnan(row["accuracy"])


def test_a_damaged_record_leaves_the_views_as_they_were(tmp_path, make_result):
    record(tmp_path, make_result(0))
    write_views(Store(tmp_path), tmp_path)
    (tmp_path / "trials" / "zzz").mkdir()
    (tmp_path / "trials" / "zzz" / "result.json").write_text("{")
    with pytest.raises(DamagedRecord, match="zzz"):
        write_views(Store(tmp_path), tmp_path)
    assert len(table(tmp_path, "trials")) == 1
    assert sorted(path.name for path in (tmp_path / "parquet").iterdir()) == [
        "epochs.parquet",
        "layers.parquet",
        "trials.parquet",
    ]


def test_results_are_never_stale(tmp_path, make_result):
    with pytest.raises(NoSuchSweep, match=str(tmp_path)):
        load_table(tmp_path)
    record(tmp_path, make_result(0))
    assert len(load_table(tmp_path)) == 1
    write_views(Store(tmp_path), tmp_path)
    assert load_table(tmp_path).equals(table(tmp_path, "trials"))
    record(tmp_path, make_result(1))
    assert len(load_table(tmp_path)) == 2
