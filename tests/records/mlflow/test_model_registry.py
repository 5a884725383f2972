"""The registry holds what a network computes, loads without pickle, and has one version a trial."""

from __future__ import annotations

import dataclasses
import os
import signal

import pytest
import torch
from torch import nn

from orchestrator.records.mlflow.model_registry import PrunedNetwork
from orchestrator.records.mlflow.view import MlflowFailure, MlflowView, tracking_uri
from orchestrator.trial.exporting import export


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).eval()


@pytest.fixture(scope="module")
def program(tmp_path_factory, network):
    return export(network, torch.randn(8, 1, 8, 8), tmp_path_factory.mktemp("pt2") / "model.pt2", "pt2").path


def pruned(result, program, digest="abc"):
    return PrunedNetwork(
        trial_id=result.trial_id,
        program=program,
        digest=digest,
        image=(1, 8, 8),
        classes=4,
        torch_version=str(torch.__version__),
        title="a network, s3://key:hunter2@bucket/x",
        metrics={name: result.metrics[name] for name in ("accuracy", "macs")},
    )


def versions(out):
    from mlflow import MlflowClient

    entries = MlflowClient(tracking_uri=tracking_uri(out)).search_model_versions("name = 'sweep'")
    return {entry.tags["trial_id"]: entry for entry in entries}


def test_a_registered_network_loads_without_pickle_and_computes_the_same(
    out, make_result, network, program, monkeypatch: pytest.MonkeyPatch
):
    import mlflow

    results = [make_result(seed) for seed in range(2)]
    view = MlflowView(out, "sweep")
    view.sync(results)
    registered = view.register([pruned(result, program) for result in results])
    assert [(network.trial_id, network.version, network.new) for network in registered] == [
        (results[0].trial_id, "1", True),
        (results[1].trial_id, "2", True),
    ]

    # MLflow's own guard: it refuses an archive that holds anything but tensors and text.
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri(out))
    try:
        loaded = mlflow.pytorch.load_model("models:/sweep@best")
        served = mlflow.pyfunc.load_model("models:/sweep/2")
    finally:
        mlflow.set_tracking_uri(before)
    images = torch.randn(5, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), network(images))
        torch.testing.assert_close(torch.from_numpy(served.predict(images.numpy())), network(images))
    signature = served.metadata.signature
    assert signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert signature.outputs.inputs[0].shape == (-1, 4)
    with pytest.raises(mlflow.exceptions.MlflowException):
        served.predict(torch.randn(5, 3, 8, 8).numpy())


def test_registering_again_adds_nothing_and_says_who_left_the_front(out, make_result, program):
    from mlflow import MlflowClient

    results = [make_result(seed) for seed in range(2)]
    view = MlflowView(out, "sweep")
    view.sync(results)
    networks = [pruned(result, program) for result in results]
    view.register(networks)
    client = MlflowClient(tracking_uri=tracking_uri(out))
    run = versions(out)[results[0].trial_id].run_id
    assert len(client.get_metric_history(run, "accuracy")) == 1, "the trial's run got a second point"
    assert "hunter2" not in versions(out)[results[0].trial_id].description

    again = MlflowView(out, "sweep").register([networks[1]])
    assert [(network.version, network.new) for network in again] == [("2", False)]
    assert {trial: entry.tags["on_front"] for trial, entry in versions(out).items()} == {
        results[0].trial_id: "false",
        results[1].trial_id: "true",
    }
    assert str(client.get_model_version_by_alias("sweep", "best").version) == "2"
    changed = dataclasses.replace(networks[1], digest="another")
    (version,) = MlflowView(out, "sweep").register([changed])
    assert (version.version, version.new) == ("3", True)


@pytest.mark.parametrize("call", ["log_model_artifacts", "finalize_logged_model", "create_model_version"])
def test_what_a_killed_registration_left_is_completed(out, make_result, program, call):
    from mlflow import MlflowClient

    result = make_result(0)
    MlflowView(out, "sweep").sync([result])
    child = os.fork()
    if child == 0:
        setattr(MlflowClient, call, lambda *_arguments, **_named: os.kill(os.getpid(), signal.SIGKILL))
        MlflowView(out, "sweep").register([pruned(result, program)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert versions(out) == {}
    MlflowView(out, "sweep").register([pruned(result, program)])
    assert list(versions(out)) == [result.trial_id]
    client = MlflowClient(tracking_uri=tracking_uri(out))
    experiment = client.get_experiment_by_name("sweep").experiment_id
    assert [str(model.status) for model in client.search_logged_models([experiment])] == ["READY"]


def test_a_trial_without_a_run_is_named(out, make_result, program):
    with pytest.raises(MlflowFailure, match=make_result(0).trial_id):
        MlflowView(out, "sweep").register([pruned(make_result(0), program)])
