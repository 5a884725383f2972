"""The Parquet views of a sweep: trials, epochs and layers as tables, rewritten when the records change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records.record_fingerprints import record_fingerprints
from orchestrator.records.records import Latency, read_latency, read_results
from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.metric import LATENCY_METRICS, METRICS, TRIAL_METRICS
from orchestrator.spec.redacting import redacted_values
from orchestrator.spec.result import EpochRow, LayerRow, TrialResult
from orchestrator.spec.stages import STAGE_NAMES
from orchestrator.spec.trial import flatten
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths

VIEWS_VERSION = "1"
"""Raised when the columns change, so that earlier views are rewritten."""

_STAGES = (*(name for name in STAGE_NAMES if name != "step"), "retrain")
_LEADING = {
    "sweep": pa.string(),
    "trial_id": pa.string(),
    "status": pa.string(),
    "error": pa.string(),
    "seed": pa.int64(),
    "model": pa.string(),
    "data": pa.string(),
    "method": pa.string(),
    "retrain": pa.string(),
    "target_quantity": pa.string(),
    "target_sparsity": pa.float64(),
}
_MEASURED = {name: pa.int64() if row.dtype == "int" else pa.float64() for name, row in METRICS.items()}
_TRAILING = {name: pa.string() for name in ("device", "host", "started", "ended", "commit", "versions")}
_UNPROMISED = {
    "arm": pa.string(),
    "achieved_sparsity": pa.float64(),
    "note": pa.string(),
    "latency_device": pa.string(),
    "latency_host": pa.string(),
    "latency_batch_size": pa.int64(),
    "latency_measured": pa.string(),
}
"""Columns that the public contract does not promise, after all that it does."""

_TYPES: dict[object, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_EPOCHS, _LAYERS = (
    pa.schema([("trial_id", pa.string()), *((name, _TYPES[f.annotation]) for name, f in rows.model_fields.items())])
    for rows in (EpochRow, LayerRow)
)
_ROWS_A_BATCH = 50_000
_FINGERPRINT = b"prunesweep.records"


class NoSuchSweep(PrunesweepError, ValueError):
    """A folder holds neither records nor views of a sweep."""


def write_views(store: Store, sweep_folder: Path) -> int:
    """Write ``parquet/{trials,epochs,layers}.parquet`` from the records; return the number of trials.

    Each file is replaced whole. No record is read where the views are current. Rows are in the order of trial ids, so
    that equal records give equal views. ``trials.parquet`` is written last and carries the fingerprint of the records.

    Raises:
        DamagedRecord: a record cannot be read; the views stay as they were.
    """
    # Taken before reading: a record that arrives meanwhile only makes the next call write again.
    fingerprint = _fingerprint(sweep_folder)
    paths = SweepPaths(sweep_folder)
    if _is_current(paths, fingerprint):
        return int(pq.read_metadata(paths.view("trials")).num_rows)
    rows: list[dict[str, Any]] = []
    with (
        store.replacing(paths.view("epochs")) as epochs_path,
        store.replacing(paths.view("layers")) as layers_path,
        _Rows(epochs_path, _EPOCHS) as epochs,
        _Rows(layers_path, _LAYERS) as layers,
    ):
        for result in read_results(sweep_folder):
            epochs.add(result.trial_id, result.epochs)
            layers.add(result.trial_id, result.layers)
            rows.append(_row(paths, result))
    table = _trials_table(rows).replace_schema_metadata({_FINGERPRINT: fingerprint})
    with store.replacing(paths.view("trials")) as path:
        pq.write_table(table, path)
    return len(rows)


def load_table(sweep_folder: Path) -> pa.Table:
    """Return one row a trial, columns as in ``trials.parquet``, from that file where it is current, else from records.

    Raises:
        NoSuchSweep: the folder holds neither records nor views.
    """
    paths = SweepPaths(sweep_folder)
    view = paths.view("trials")
    has_records = paths.trials.is_dir()
    if not has_records and not view.exists():
        if not paths.searchspace.exists():
            raise NoSuchSweep(f"{sweep_folder}: no sweep here (neither trials/ nor parquet/trials.parquet)")
        return _trials_table([])
    if not has_records or _is_current(paths, _fingerprint(sweep_folder)):
        # ParquetFile and not read_table: the latter takes a parent folder named key=value for a partition column.
        with pq.ParquetFile(view) as file:
            return file.read()
    return _trials_table([_row(paths, result) for result in read_results(sweep_folder)])


class _Rows:
    """A Parquet file that is written in batches, of which memory holds one."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema)
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *raised: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, trial_id: str, rows: Iterable[EpochRow | LayerRow]) -> None:
        names = self._schema.names[1:]
        for row in rows:
            self._columns["trial_id"].append(trial_id)
            for name in names:
                self._columns[name].append(getattr(row, name))
        if len(self._columns["trial_id"]) >= _ROWS_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.table(self._columns, schema=self._schema))
        self._columns = {name: [] for name in self._schema.names}


def _row(paths: SweepPaths, result: TrialResult) -> dict[str, Any]:
    """Return one row of ``trials.parquet``; fixed columns take precedence over varied parameters of the same name."""
    latency = read_latency(paths.trial(result.trial_id).folder)
    fixed = {"sweep": paths.folder.absolute().name} | result.row() | _latency_columns(latency)
    # An axis of whole plug-ins ({name: clr, high: 1}) varies each of its parameters.
    point = {path: value for path, value in flatten(result.point).items() if path not in _FIXED and path not in fixed}
    extra = [name for name in result.metrics if name not in TRIAL_METRICS]
    return dict(redacted_values({**fixed, _POINT: point, _EXTRA: extra}))


def _latency_columns(latency: Latency | None) -> dict[str, Any]:
    if latency is None:
        return {}
    conditions = {f"latency_{name}": getattr(latency, name) for name in ("device", "host", "batch_size", "measured")}
    return {name: getattr(latency, name) for name in LATENCY_METRICS} | conditions


_FIXED = frozenset(_LEADING) | frozenset(_MEASURED) | frozenset(_TRAILING) | frozenset(_UNPROMISED)
_POINT = "\0point"
_EXTRA = "\0extra"
"""Names of the metrics of a record that the search space named beside those of every trial."""


def _trials_table(rows: list[dict[str, Any]]) -> pa.Table:
    varied = sorted({path for row in rows for path in row[_POINT]})
    recorded = {name for row in rows for name in row if name.startswith("seconds_")}
    stages = [f"seconds_{stage}" for stage in _STAGES]
    seconds = dict.fromkeys([*stages, *sorted(recorded - set(stages))], pa.float64())
    columns: dict[str, pa.Array] = {}

    def fill(types: Mapping[str, pa.DataType]) -> None:
        for name, kind in types.items():
            columns[name] = pa.array([row.get(name) for row in rows], type=kind)

    fill(_LEADING)
    for path in varied:
        if path not in seconds:
            columns[path] = _point_column([row[_POINT].get(path) for row in rows])
    fill(_MEASURED)
    fill(seconds)
    fill(_TRAILING)
    fill(_UNPROMISED)
    fill(dict.fromkeys(sorted({name for row in rows for name in row[_EXTRA]} - columns.keys()), pa.float64()))
    return pa.table(columns)


def _point_column(values: list[Any]) -> pa.Array:
    """Return a column of numbers or booleans if all values are; else of text, with other values as JSON."""
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, bool) for value in given):
        return pa.array(values, type=pa.bool_())
    if given and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        whole = all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in given)
        kind = int if whole else float
        return pa.array([None if v is None else kind(v) for v in values], type=pa.int64() if whole else pa.float64())
    return pa.array(
        [v if v is None or isinstance(v, str) else json.dumps(v, sort_keys=True) for v in values], type=pa.string()
    )


def _fingerprint(sweep_folder: Path) -> bytes:
    """Return a digest that changes whenever a record or a latency is created, deleted or replaced."""
    digest = hashlib.sha256(VIEWS_VERSION.encode())
    for trial_id, fingerprint in record_fingerprints(sweep_folder).items():
        digest.update(f"{trial_id} {fingerprint}\n".encode())
    return digest.hexdigest().encode()


def _is_current(paths: SweepPaths, fingerprint: bytes) -> bool:
    if not all(paths.view(name).exists() for name in ("epochs", "layers", "trials")):
        return False
    try:
        metadata = pq.read_schema(paths.view("trials")).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    return bool(metadata.get(_FINGERPRINT) == fingerprint)
