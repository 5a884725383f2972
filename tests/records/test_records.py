"""A record is written once, whole or not at all, whoever else writes and whenever the writer is killed."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.records import (
    DamagedRecord,
    Latency,
    forget,
    read_latency,
    read_result,
    read_results,
    recorded_ids,
    write_latency,
    write_result,
)
from orchestrator.records.records import FinishedTrial
from orchestrator.storage.store import Store

WRITE_ALL = """
import errno, os, sys, time
from pathlib import Path
from orchestrator.spec import TrialResult
from orchestrator.records import write_result
from orchestrator.storage.store import Store
source, sweep, name, links, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
if links == "no links":
    def link(*paths):
        raise OSError(errno.EPERM, "links are not supported")
    os.link = link
result = TrialResult.model_validate_json(source.read_bytes()).model_copy(update={"host": name})
print("ready", flush=True)
sys.stdin.readline()
for i in range(count):
    print(int(write_result(Store(sweep), sweep / "trials" / f"{i:04d}", result)), end="", flush=True)
"""


def start_writer(source: Path, sweep: Path, name: str, links: str, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITE_ALL, str(source), str(sweep), name, links, str(count)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()


def ready(writer: subprocess.Popen[str]) -> None:
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"


def test_a_record_comes_back_as_it_was_not_finite_floats_included(tmp_path, make_result):
    metrics = {"accuracy": math.nan, "a": math.inf, "b": -math.inf, "c": 0.1}
    result = make_result(status="diverged", error="NaN loss", metrics=metrics)
    assert write_result(Store(tmp_path), tmp_path, result)
    text = (tmp_path / "result.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    record = read_result(tmp_path / "result.json")
    assert math.isnan(record.metrics["accuracy"])
    assert record.metrics["a"] == math.inf
    assert record.metrics["b"] == -math.inf
    assert record.model_copy(update={"metrics": {}}) == result.model_copy(update={"metrics": {}})
    assert record.spec.trial_id == result.trial_id


def test_the_first_record_wins(tmp_path, make_result):
    first, second = make_result(host="first"), make_result(host="second")
    assert write_result(Store(tmp_path), tmp_path / "trials" / first.trial_id, first)
    assert not write_result(Store(tmp_path), tmp_path / "trials" / first.trial_id, second)
    assert [result.host for result in read_results(tmp_path)] == ["first"]
    assert [path.name for path in (tmp_path / "trials" / first.trial_id).iterdir()] == ["result.json"]


@pytest.mark.parametrize("links", ["links", "no links"])
def test_of_concurrent_processes_exactly_one_writes_each_record(tmp_path, make_result, links):
    source = tmp_path / "source.json"
    source.write_text(make_result(epochs=50).model_dump_json())
    names = ["a", "b", "c"]
    writers = [start_writer(source, tmp_path / "sweep", name, links, 40) for name in names]
    for writer in writers:
        ready(writer)
    for writer in writers:
        go(writer)
    wins = [writer.communicate(timeout=60)[0] for writer in writers]
    for i in range(40):
        winners = [name for name, won in zip(names, wins, strict=True) if won[i] == "1"]
        assert [read_result(tmp_path / "sweep" / "trials" / f"{i:04d}" / "result.json").host] == winners
    assert not [path for path in (tmp_path / "sweep").rglob("*") if path.is_file() and path.name != "result.json"]


def test_killed_while_writing_leaves_whole_records_and_no_half_one(tmp_path, make_result):
    source = tmp_path / "source.json"
    layers = make_result().layers * 4000
    source.write_text(make_result(layers=layers).model_dump_json())
    delays = random.Random(0)
    killed_while_writing = 0
    for attempt in range(5):
        sweep = tmp_path / f"sweep{attempt}"
        writer = start_writer(source, sweep, "a", "links", 1000)
        ready(writer)
        go(writer)
        while not list(sweep.glob("trials/*[1-9]/*.tmp")):
            pass
        time.sleep(delays.random() / 500)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert recorded_ids(sweep)
        assert all(len(result.layers) == 4000 for result in read_results(sweep))
        killed_while_writing += bool(list(sweep.rglob("*.tmp")))
        unfinished = [folder for folder in (sweep / "trials").iterdir() if folder.name not in recorded_ids(sweep)]
        for folder in unfinished:
            assert write_result(Store(tmp_path), folder, make_result())
    assert killed_while_writing, "no writer was killed in the middle; the test shows nothing"


def test_a_damaged_record_is_named(tmp_path, make_result):
    folder = tmp_path / "trials" / "abc"
    write_result(Store(tmp_path), folder, make_result())
    path = folder / "result.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DamagedRecord, match=str(path)):
        list(read_results(tmp_path))
    assert recorded_ids(tmp_path) == {"abc"}


def test_a_folder_without_a_record_is_no_trial(tmp_path):
    assert recorded_ids(tmp_path) == set()
    (tmp_path / "trials" / "abc").mkdir(parents=True)
    (tmp_path / "trials" / "abc" / ".result.json.1-2.tmp").write_text("{")
    assert recorded_ids(tmp_path) == set()
    assert list(read_results(tmp_path)) == []


def test_only_a_failed_trial_can_be_forgotten(tmp_path, make_result):
    folder = tmp_path / "abc"
    assert not forget(Store(tmp_path), folder)
    write_result(Store(tmp_path), folder, make_result(status="failed", error="out of memory"))
    write_latency(Store(tmp_path), folder, Latency(latency_ms=1.0, latency_ms_std=0.1))
    assert forget(Store(tmp_path), folder)
    assert list(folder.iterdir()) == []
    assert write_result(Store(tmp_path), folder, make_result())
    with pytest.raises(FinishedTrial, match="'done'"):
        forget(Store(tmp_path), folder)
    (folder / "result.json").write_text("")
    assert forget(Store(tmp_path), folder)


def test_a_later_measurement_takes_the_place_of_an_earlier_one(tmp_path):
    folder = tmp_path / "trials" / "abc"
    assert read_latency(folder) is None
    for milliseconds in (2.0, 1.0):
        write_latency(
            Store(tmp_path), folder, Latency(latency_ms=milliseconds, latency_ms_std=0.1, device="cpu", batch_size=8)
        )
    assert read_latency(folder) == Latency(latency_ms=1.0, latency_ms_std=0.1, device="cpu", batch_size=8)
    (folder / "latency.json").write_text("{}")
    with pytest.raises(DamagedRecord, match="latency_ms"):
        read_latency(folder)


def test_the_store_is_importable_without_mlflow_and_torch():
    modules = "import orchestrator.records, orchestrator.records.views, sys"
    heavy = "[m for m in ('torch', 'mlflow', 'ray', 'sqlalchemy') if m in sys.modules]"
    run = subprocess.run([sys.executable, "-c", f"{modules}; print({heavy})"], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
