"""A sweep whose store is a bucket: killed, taken up again by a machine that has never seen it, read from a third."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import CONTRACT, command
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.storage.store import Store

SPACE = """
name: small
question: Does it hold together?
base:
  model: lenet_300_100
  data: digits
  target: {quantity: params}
  baseline: {epochs: 2, lr: 0.05, batch_size: 64}
  retrain: {name: clr, epochs: 2}
axes:
  target.sparsity: [0.5, 0.6, 0.7, 0.8]
arms:
  - method: taylor
"""
TRIALS = 4
PACKAGE = Path(__file__).resolve().parents[2]


def said(folder: Path, *words: str) -> str:
    done = subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def asked(*words: str) -> str:
    """What a command says that has nothing to train, within this process."""
    done = CliRunner().invoke(app, words)
    gc.enable()  # `status` does without
    assert done.exit_code == 0, done.output
    return done.stdout


def executed(text: str) -> int:
    executed = re.search(rf"executed (\d+) of {TRIALS} trials", text)
    assert executed is not None, text
    return int(executed[1])


def records(uri: str) -> dict[str, str]:
    """When each trial ended, by its record in the bucket."""
    store = Store.open(uri)
    out, bucket = store.folder, store.bucket
    assert bucket is not None
    names = [name for name in bucket.list_objects(out / "small/trials") if name.endswith("/result.json")]
    texts = {name.split("/")[0]: bucket.read(out / "small/trials" / name) or b"" for name in names}
    return {trial_id: json.loads(text)["ended"] for trial_id, text in texts.items()}


def forget_everything_here() -> None:
    """What is done next is as if on another machine."""
    shutil.rmtree(os.environ["PRUNESWEEP_STORES"])


@contextmanager
def two_nodes(folder: Path) -> Iterator[str]:
    """The address of a Ray cluster of two machines: each has one CPU and a mirror of its own."""
    cluster = Cluster()
    try:
        for name in ("one", "two"):
            places = {"PRUNESWEEP_STORES": str(folder / name), "PYTHONPATH": str(PACKAGE)}
            cluster.add_node(num_cpus=1, env_vars=places, include_dashboard=False)
        yield cluster.address
    finally:
        cluster.shutdown()


def download_trials(store: Store) -> None:
    for folder in store.folder.glob("small/trials/*"):
        store.download(folder)


def test_another_machine_takes_a_sweep_up_where_a_lost_one_left_it(bucket_uri: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPACE)
    run = ("run", "small.yaml", "--out", bucket_uri)
    driver = subprocess.Popen(command(*run), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not records(bucket_uri) and driver.poll() is None:
            time.sleep(0.02)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        output, _ = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, output
    # Workers live a moment longer than their driver; what they still finish is recorded too.
    time.sleep(3)
    forget_everything_here()
    kept = records(bucket_uri)
    assert 1 <= len(kept) < TRIALS

    with two_nodes(tmp_path) as address:
        assert executed(said(tmp_path, *run, "--address", address)) == TRIALS - len(kept)
    after = records(bucket_uri)
    assert len(after) == TRIALS
    assert {trial_id: after[trial_id] for trial_id in kept} == kept
    store = Store.open(bucket_uri)
    mirror = store.folder
    with sqlite3.connect(mirror / "mlflow.db") as database:
        rows = database.execute("select value from tags where key = 'trial_id'").fetchall()
    assert sorted(value for (value,) in rows) == sorted(after)

    forget_everything_here()
    assert executed(asked("run", str(tmp_path / "small.yaml"), "--out", bucket_uri)) == 0
    assert records(bucket_uri) == after
    # Where the networks have not come: nothing needed them.
    assert not list(mirror.glob("small/trials/*/model.safetensors"))
    if CONTRACT.exists():
        download_trials(store)
        check = [sys.executable, str(CONTRACT), str(mirror / "small"), "--trials", str(TRIALS)]
        held = subprocess.run(check, capture_output=True, text=True)
        assert held.returncode == 0, held.stdout

    forget_everything_here()
    status = json.loads(asked("status", "small", "--out", bucket_uri, "--json"))
    assert (status["done"], status["waiting"], status["driver_alive"]) == (TRIALS, 0, False)
    plan = json.loads(asked("plan", str(tmp_path / "small.yaml"), "--out", bucket_uri, "--json"))
    assert plan["done"] == TRIALS
    table = json.loads(asked("compare", "small", "--out", bucket_uri, "--paper", "004", "--table", "1", "--json"))
    assert table["rows"]
    asked("report", "small", "--out", bucket_uri)
    page = mirror / "small/report/index.html"
    assert store.bucket is not None
    assert store.bucket.read(page) == page.read_bytes()
