"""Nothing in a store is executed, leads out of it, or shows a secret."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.records import DamagedRecord, read_results, write_result
from orchestrator.records.mlflow.payload import run_parameters, run_tags
from orchestrator.records.mlflow.view import MlflowFailure, MlflowView
from orchestrator.records.parquet import write_views
from orchestrator.spec.redacting import redacted
from orchestrator.storage.store import Store

PACKAGE = Path(__file__).resolve().parents[2] / "orchestrator"
SPACE = "name: mine\nbase: {model: lenet5, data: digits, method: l1_norm, target: {sparsity: 0.5}}\n"
SECRETS = {
    "postgresql://me:hunter2@db.example:5432/mlflow": "postgresql://***@db.example:5432/mlflow",
    "mysql+pymysql://me:p@ss/hunter2@db/x": "mysql+pymysql://***@db/x",
    "s3://AKIA123:hunter2/+x@bucket/runs": "s3://***@bucket/runs",
    "no such folder: '/data/s3:/K:hunter2@bucket/x'": "no such folder: '/data/s3:/***@bucket/x'",
    "https://hunter2@host/a?b=1": "https://***@host/a?b=1",
    "https://host/a?X-Amz-Signature=hunter2&b=1": "https://host/a?X-Amz-Signature=***&b=1",
    "postgresql://db/x?user=me&password=hunter2": "postgresql://db/x?user=me&password=***",
    "Authorization: Bearer hunter2hunter2": "Authorization: Bearer ***",
    "OSError: cannot open 's3://K:hunter2@b/x'; retried": "OSError: cannot open 's3://***@b/x'; retried",
}


def test_secrets_are_taken_out_and_the_rest_stays() -> None:
    for text, shown in SECRETS.items():
        assert redacted(text) == shown
        assert redacted(shown) == shown
    for text in ("sqlite:////tmp/me@home/mlflow.db", "http://127.0.0.1:5000", "a@b: 1", "lr=0.1", "max_tokens: 3"):
        assert redacted(text) == text


def test_no_secret_reaches_mlflow_or_parquet(tmp_path, make_result) -> None:
    for seed, text in enumerate(SECRETS):
        point = {"data.path": text, "seed": seed}
        result = make_result(seed, point=point, status="failed", error=f"Unreadable: {text}", note=text)
        write_result(Store(tmp_path), tmp_path / "trials" / result.trial_id, result)
        assert "hunter2" not in json.dumps([run_parameters(result), run_tags(result)])
    assert write_views(Store(tmp_path), tmp_path) == len(SECRETS)
    assert all(b"hunter2" not in path.read_bytes() for path in (tmp_path / "parquet").iterdir())


def test_no_secret_reaches_a_warning(tmp_path, make_result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowFailure) as failure:
        MlflowView(tmp_path, "sweep").sync([make_result(0)])
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize("trial_id", ["../../x", "/etc/x", "..", "a/b", ".hidden", ""])
def test_a_record_whose_id_leads_elsewhere_is_refused(tmp_path, make_result, trial_id: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/latency.json").write_text('{"latency_ms": 1, "latency_ms_std": 1}')
    write_result(Store(tmp_path), tmp_path / "runs/mine/trials/abc", make_result(0, trial_id=trial_id))
    with pytest.raises(DamagedRecord, match="is no name of a folder"):
        list(read_results(tmp_path / "runs/mine"))
    with pytest.raises(DamagedRecord, match="is no name of a folder"):
        write_views(Store(tmp_path), tmp_path / "runs/mine")


@pytest.mark.parametrize("words", [["status"], ["sync"], ["report"], ["export", "../../x", "--format", "onnx"]])
def test_commands_do_not_follow_names_out_of_the_store(tmp_path: Path, words: list[str]) -> None:
    """`x` is a sweep outside of the store; a trial beside the store's is no trial of it."""
    for folder in (tmp_path / "x", tmp_path / "runs/mine"):
        folder.mkdir(parents=True)
        (folder / "searchspace.yaml").write_text(SPACE)
    sweep = "mine" if words[0] == "export" else "../x"
    command = [sys.executable, "-m", "orchestrator", words[0], sweep, *words[1:], "--out", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=tmp_path / "runs/mine", capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no ")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["searchspace.yaml"]


UNPICKLERS = {
    f"{name}.{how}" for name in ("pickle", "dill", "joblib", "marshal", "shelve") for how in ("load", "loads")
}
UNPICKLERS |= {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "pickle.Unpickler", "shelve.open"}


def test_nothing_of_the_package_unpickles() -> None:
    """Stores and caches are read by JSON, Parquet, Arrow, SQLite and safetensors. Only the shipped conformance suites
    pickle, what they have just made; torchvision reads CIFAR's published, checksummed batches by itself."""
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "testing"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in UNPICKLERS, f"{path}:{node.lineno}"


def test_no_secret_reaches_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SPACE)
    command = [sys.executable, "-m", "orchestrator", "plan", "mine.yaml", "--set"]
    command += ["base.data={name: parquet, path: 's3://KEY:hunter2@bucket/x'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr
