"""Pruned networks in MLflow's model registry, as `torch.export` programs that load without pickle.

This module writes the folder of a model in the form that `mlflow.pytorch` 3.17 reads. `mlflow.pytorch.log_model` would
need torch and export the network once more.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.spec.redacting import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model

_BEST = "best"
_FRONT = "on_front"


@dataclass(frozen=True)
class PrunedNetwork:
    """A trial's network as a file, with its description."""

    trial_id: str
    program: Path
    """Path of ``model.pt2``: maps float images N x C x H x W to logits N x classes, for any N."""
    digest: str
    """SHA-256 of the network's tensors, from ``cut.json``."""
    image: tuple[int, int, int]
    """Channels, height, width."""
    classes: int
    torch_version: str
    """Version of the PyTorch that wrote the program."""
    title: str
    """Description in one line."""
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Registered:
    """A version of the registered model, which has the sweep's name."""

    trial_id: str
    version: str
    new: bool


def register_networks(
    client: MlflowClient, experiment: str, sweep: str, networks: Sequence[PrunedNetwork], runs: Mapping[str, str]
) -> list[Registered]:
    """Register one version a trial, in the order given; a network that is registered already stays as it is.

    Args:
        client: MLflow's client.
        experiment: id of the sweep's experiment.
        sweep: name of the sweep and of the registered model.
        networks: the alias ``best`` goes to the first of them.
        runs: id of the run, by trial id.

    Raises:
        LookupError: a trial has no run.
    """
    for network in networks:
        if network.trial_id not in runs:
            raise LookupError(f"no run of trial {network.trial_id!r}")
    if not client.search_registered_models(filter_string=f"name = '{sweep}'"):
        client.create_registered_model(sweep, {"prunesweep.sweep": sweep}, _description(sweep))
    versions = _index(lambda token: client.search_model_versions(f"name = '{sweep}'", page_token=token))
    registered: list[Registered] = []
    for network in networks:
        existing = versions.get(_key(network))
        if existing is None:
            number = _register(client, experiment, sweep, network, runs[network.trial_id])
        else:
            number = str(existing.version)
        registered.append(Registered(network.trial_id, number, existing is None))
    _mark_front(client, sweep, versions.values(), {network.version for network in registered})
    if registered:
        client.set_registered_model_alias(sweep, _BEST, registered[0].version)
    return registered


def _register(client: MlflowClient, experiment: str, sweep: str, network: PrunedNetwork, run_id: str) -> str:
    tags = {"trial_id": network.trial_id, "sha256": network.digest}
    logged = _logged_model(client, experiment, f"{sweep}-{network.trial_id}", network, run_id, tags)
    # A registry in a database resolves models:/ URIs in MLflow's global store, which need not be this one.
    embedded = client.tracking_uri.startswith("sqlite:")
    entry = client.create_model_version(
        sweep,
        logged.artifact_location if embedded else f"models:/{logged.model_id}",
        run_id,
        tags=tags | {_FRONT: "true"},
        description=redacted(network.title),
        await_creation_for=0,
        model_id=logged.model_id,
    )
    return str(entry.version)


def _logged_model(
    client: MlflowClient, experiment: str, name: str, network: PrunedNetwork, run_id: str, tags: Mapping[str, str]
) -> LoggedModel:
    """Return the network as a model of its run: the complete one of a killed registration, or a new one."""
    from mlflow.entities import Metric

    same_name = f"name = '{name}'"
    earlier = _index(lambda token: client.search_logged_models([experiment], same_name, page_token=token))
    logged: LoggedModel | None = earlier.get(_key(network))
    if logged is not None:
        if str(logged.status) == "READY":
            return logged
        client.delete_logged_model(logged.model_id)
    logged = client.create_logged_model(experiment, name, run_id, tags=dict(tags), model_type="pruned network")
    with tempfile.TemporaryDirectory(prefix="prunesweep-model-") as folder:
        _write_model(Path(folder), network, run_id, logged.model_id)
        client.log_model_artifacts(logged.model_id, folder)
    time = client.get_run(run_id).info.end_time
    # With the time and step of the run's own metrics: the run gets no second point, the model gets its columns.
    client.log_batch(
        run_id,
        [
            Metric(name, value, time, 0, model_id=logged.model_id, run_id=run_id)
            for name, value in network.metrics.items()
        ],
    )
    client.finalize_logged_model(logged.model_id, "READY")
    return logged


def _mark_front(client: MlflowClient, sweep: str, versions: Iterable[ModelVersion], on_front: Set[str]) -> None:
    """Tag earlier versions by whether they are on the front now."""
    for entry in versions:
        state = "true" if str(entry.version) in on_front else "false"
        if entry.tags.get(_FRONT) != state:
            client.set_model_version_tag(sweep, entry.version, _FRONT, state)


def _index(search: Callable[[str | None], Any]) -> dict[tuple[str, str], Any]:
    """Return what MLflow lists page by page, by trial and digest; of several the first."""
    entries: dict[tuple[str, str], Any] = {}
    token: str | None = None
    while True:
        page = search(token)
        for entry in page:
            entries.setdefault((entry.tags.get("trial_id", ""), entry.tags.get("sha256", "")), entry)
        token = page.token
        if not token:
            return entries


def _key(network: PrunedNetwork) -> tuple[str, str]:
    return network.trial_id, network.digest


def _write_model(folder: Path, network: PrunedNetwork, run_id: str, model_id: str) -> None:
    data = folder / "data"
    data.mkdir()
    shutil.copyfile(network.program, data / "model.pt2")
    model = _model(network, run_id, model_id)
    model.model_size_bytes = os.path.getsize(network.program)
    model.save(str(folder / "MLmodel"))
    requirements = [f"torch=={network.torch_version.partition('+')[0]}", f"mlflow=={version('mlflow')}"]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    python = platform.python_version()
    # JSON is YAML.
    environment = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(json.dumps(environment))
    conda = {
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
        "name": "model",
    }
    (folder / "conda.yaml").write_text(json.dumps(conda))


def _model(network: PrunedNetwork, run_id: str, model_id: str) -> Model:
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    kind = np.dtype(np.float32)
    images, logits = TensorSpec(kind, (-1, *network.image)), TensorSpec(kind, (-1, network.classes))
    signature = ModelSignature(inputs=Schema([images]), outputs=Schema([logits]))
    model = Model(run_id=run_id, signature=signature, model_id=model_id, metadata={"trial_id": network.trial_id})
    model.add_flavor("pytorch", model_data="data", pytorch_version=network.torch_version, code=None)
    pyfunc.add_to_model(
        model,
        loader_module="mlflow.pytorch",
        data="data",
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config={"device": None},
    )
    return model


def _description(sweep: str) -> str:
    return (
        f"Pruned networks on the Pareto front of the sweep `{sweep}`, one version a trial; the alias `{_BEST}` is the "
        "one of the highest validation accuracy. `torch.export` programs without pickle: load them with "
        "`MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false` and "
        f"`mlflow.pytorch.load_model('models:/{sweep}@{_BEST}')`."
    )
