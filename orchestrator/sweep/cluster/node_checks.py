"""Before the first trial on a cluster: every node has the same code, reaches the store and sees its own GPUs."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.data import DATA
from orchestrator.methods import METHODS
from orchestrator.metrics.table import EXTRA_METRICS
from orchestrator.models import MODELS
from orchestrator.retrain import SCHEDULES
from orchestrator.spec.errors import SpecError
from orchestrator.spec.failures import StoreAway
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.store import Store
from orchestrator.storage.uri import is_uri

_PACKAGE = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "torchvision", "torch-pruning", "ray", "numpy", "safetensors")
_CONNECT_SECONDS = 20.0
_ANSWER_SECONDS = 120.0
"""A node starts a worker for the check, which imports torch where the node has GPUs."""
_SIGHT_SECONDS = 15.0
"""A file written on one machine may appear seconds later on another: NFS caches that a name does not exist."""

Report = dict[str, Any]
"""A node's answer; plain values, so that a driver with other code can read it."""


class UnfitNode(SpecError):
    """Nodes of the cluster on which no trial can run; the message names each with its reason."""


def check_address(address: str) -> None:
    """Raise :class:`UnfitNode` where nothing listens at ``HOST:PORT``: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UnfitNode(f"--address {address}", f"no Ray cluster answers there: {error}") from error


def check_nodes(address: str, store: Store, specs: Iterable[TrialSpec], metrics: Iterable[str] = ()) -> None:
    """Check every node that has CPUs, all at once, with Ray connected; takes about two seconds.

    Nodes that join later, e.g. by the autoscaler, are not checked.

    Args:
        address: as the user gave it, for the message.
        store: the store; every node writes something small there, and reads what the driver wrote.
        specs: the trials, whose plug-ins must be the same on every node.
        metrics: metrics of the user's own, likewise.

    Raises:
        UnfitNode: a node does not answer, sees another store than the driver, has other code, or lacks GPUs.
    """
    modules = plugin_modules(specs, metrics)
    token = secrets.token_hex(8)
    mark, bucket = store.folder / f".preflight-{token}", store.bucket
    nodes = nodes_with("CPU")
    names = {node["NodeID"]: f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes}
    task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_report)
    try:
        if bucket is None:
            mark.write_text(token)
        else:
            bucket.write(mark, token.encode())
        tasks = {}
        for node in nodes:
            gpus = int(node["Resources"].get("GPU", 0))
            tasks[
                task.options(scheduling_strategy=on_node(node["NodeID"])).remote(
                    store.address_of(mark), token, node["NodeID"], modules, gpus, _SIGHT_SECONDS
                )
            ] = node["NodeID"]
        answered, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=_ANSWER_SECONDS) if tasks else ([], [])
        reports: dict[str, Report] = {}
        problems: dict[str, str] = {}
        for answer, node_id in tasks.items():
            if answer not in answered:
                problems[node_id] = f"does not answer within {_ANSWER_SECONDS:.0f} s"
                continue
            try:
                reports[node_id] = ray.get(answer)
            except ray.exceptions.RayError as error:
                problems[node_id] = f"cannot run the package: {_line(error)}"
        for node_id, report in reports.items():
            problem = report["problem"]
            if problem is None and bucket is None:
                problem = _unseen(_reply(mark, node_id), token, _SIGHT_SECONDS)
            if problem is not None:
                problems[node_id] = problem
        software = {node: report["installed"] for node, report in reports.items()}
        problems = {**differences(installed(modules), software), **problems}
    except StoreAway as away:
        raise UnfitNode("--out", str(away)) from away
    except OSError as error:
        raise UnfitNode("--out", f"{error.strerror}: {str(store.folder)!r}") from error
    finally:
        with suppress(OSError):
            store.delete_marker(mark)
        for file in [mark, *(_reply(mark, node["NodeID"]) for node in nodes)]:
            with suppress(OSError):
                file.unlink(missing_ok=True)
    if problems:
        message = "; ".join(f"{names[node_id]} {problem}" for node_id, problem in problems.items())
        raise UnfitNode(f"--address {address}", message)


def plugin_modules(specs: Iterable[TrialSpec], metrics: Iterable[str] = ()) -> list[str]:
    """Return the modules outside this package that the trials name: other distributions', and the user's own."""
    targets = {EXTRA_METRICS.target(name) for name in metrics}
    for spec in specs:
        named = ((METHODS, spec.method), (MODELS, spec.model), (DATA, spec.data), (SCHEDULES, spec.retrain))
        targets |= {registry.target(choice.name) for registry, choice in named}
    modules = {target.partition(":")[0] for target in targets}
    return sorted(module for module in modules if module.partition(".")[0] != _PACKAGE.name)


def installed(modules: Sequence[str] = ()) -> dict[str, str]:
    """Return versions of packages and checksums of code on this machine, by name."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    versions["orchestrator"] = _code(_PACKAGE.rglob("*.py"))
    for module in modules:
        spec = importlib.util.find_spec(module)
        versions[f"plug-in {module}"] = "none" if spec is None or spec.origin is None else _code([Path(spec.origin)])
    return versions


def nodes_with(resource: str) -> list[dict[str, Any]]:
    """Return the cluster's living nodes that have some of a resource, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(resource, 0) > 0]


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """Return the strategy of a task that must run on this node and on no other."""
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def differences(driver: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return what is wrong with each node whose software differs from the driver's, by id.

    What the driver lacks, e.g. torch, must be the same on all nodes.
    """
    problems: dict[str, str] = {}
    for name, expected in driver.items():
        whose = "the driver"
        for node_id, software in nodes.items():
            actual = software.get(name, "none")
            if expected == "none" and actual != "none" and name in _PACKAGES:
                expected, whose = actual, "other nodes"
            if actual != expected:
                problems.setdefault(node_id, f"has {name} {actual}, {whose} {expected}")
    return problems


def _report(mark: str, token: str, node_id: str, modules: list[str], gpus: int, seconds: float) -> Report:
    """Return what is installed, and what is wrong with the view of the store or with the GPUs; runs on a node."""
    in_bucket = is_uri(mark)
    problem = _unreached(mark, token) if in_bucket else _unseen(Path(mark), token, seconds)
    if problem is None and not in_bucket:
        try:
            _reply(Path(mark), node_id).write_text(token)
        except OSError as error:
            problem = f"cannot write to --out: {error.strerror}: {str(Path(mark).parent)!r}"
    return {"problem": problem or _gpu_problem(gpus), "installed": installed(modules)}


def _unreached(mark: str, token: str) -> str | None:
    """Return what is wrong with this node's access to a bucket."""
    try:
        store = Store.open(mark)
        path, bucket = store.folder, store.bucket
        assert bucket is not None
        bucket.check(path.parent)
        if bucket.read(path) != token.encode():
            return f"does not share --out {store.address_of(path.parent)!r}: what the driver wrote is not there"
    except (SpecError, StoreAway) as error:
        return f"cannot use --out: {error}"
    return None


def _reply(mark: Path, node_id: str) -> Path:
    return mark.with_name(f"{mark.name}-{node_id[:16]}")


def _unseen(file: Path, token: str, seconds: float) -> str | None:
    """Wait for the other side's file with its token; return what is wrong if it does not appear."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            list(file.parent.iterdir())  # makes a network file system look again
            if file.read_text() == token:
                return None
        except FileNotFoundError:
            pass
        except OSError as error:
            return f"cannot read --out: {error.strerror}: {str(file.parent)!r}"
        if time.monotonic() > deadline:
            return f"does not share --out {str(file.parent)!r}: a file written on one side does not appear on the other"
        time.sleep(0.1)


def _gpu_problem(promised: int) -> str | None:
    """Return what is wrong with the node's GPUs; each is used once, in a worker that ends afterwards."""
    if promised == 0:
        return None
    import torch

    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if visible < promised:
        return f"offers {promised} GPUs, PyTorch sees {visible}"
    for index in range(promised):
        try:
            torch.ones(1, device=f"cuda:{index}").item()
        except (RuntimeError, AssertionError) as error:
            return f"cannot use GPU {index}: {_line(error)}"
    return None


def _code(files: Iterable[Path]) -> str:
    """Return a short checksum of source files."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"code {digest.hexdigest()[:8]}"


def _line(error: BaseException) -> str:
    """Return the last line of an error; Ray's errors begin with a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
