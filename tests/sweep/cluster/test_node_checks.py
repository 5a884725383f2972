"""What is checked on every node before the first trial, and what the refusal says."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from orchestrator.storage.store import Store
from orchestrator.sweep.cluster import node_checks, tune_runner
from orchestrator.sweep.space.resolve import resolve

SPEC = resolve({"model": "lenet5", "data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}})


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """One real node; its name in messages."""
    with tune_runner.cluster("local", 1):
        yield f"node {ray.nodes()[0]['NodeManagerHostname']} ({ray.nodes()[0]['NodeManagerAddress']})"


def test_a_fit_node_passes_and_nothing_stays_behind(node: str, tmp_path: Path) -> None:
    node_checks.check_nodes("auto", Store(tmp_path), [SPEC])
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_sees_another_folder_is_named(node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's mark goes elsewhere: to the node it is as if `--out` were not shared."""
    monkeypatch.setattr(node_checks, "_SIGHT_SECONDS", 0.5)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    class Elsewhere(type(tmp_path)):  # type: ignore[misc]
        def write_text(self, *words: object, **more: object) -> int:
            return int((elsewhere / self.name).write_text(*words, **more))

    with pytest.raises(node_checks.UnfitNode) as refused:
        node_checks.check_nodes("auto", Store(Elsewhere(tmp_path)), [SPEC])
    assert str(refused.value).startswith(f"--address auto: {node} does not share --out {str(tmp_path)!r}")


def test_a_store_that_is_no_folder_is_refused(node: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(node_checks.UnfitNode, match="--out: Not a directory"):
        node_checks.check_nodes("auto", Store(tmp_path / "file"), [SPEC])


def test_a_node_that_cannot_use_the_bucket_is_named(node: str, bucket_uri: str) -> None:
    """Ray was started before the environment named the server and the keys."""
    with pytest.raises(node_checks.UnfitNode) as refused:
        node_checks.check_nodes("auto", Store.open(bucket_uri), [SPEC])
    assert str(refused.value).startswith(f"--address auto: {node} cannot use --out: s3://")
    store = Store.open(bucket_uri)
    assert store.bucket is not None
    assert store.bucket.list_objects(store.folder) == {}


def test_a_node_that_can_use_the_bucket_sees_what_the_driver_wrote(bucket_uri: str) -> None:
    store = Store.open(bucket_uri)
    mark = store.folder / ".preflight-0a1b"
    assert "what the driver wrote is not there" in str(node_checks._unreached(f"{bucket_uri}/.preflight-0a1b", "token"))
    store.write_marker(mark, "token")
    assert node_checks._unreached(f"{bucket_uri}/.preflight-0a1b", "token") is None


def test_plug_ins_outside_of_the_package_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_nets.py").write_text("def tiny(num_classes, in_channels): ...\n")
    own = resolve({"model": "own_nets:tiny", "data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}})
    assert node_checks.plugin_modules([SPEC]) == []
    assert node_checks.plugin_modules([SPEC, own]) == ["own_nets"]
    before = node_checks.installed(["own_nets", "not_there_at_all"])
    assert re.fullmatch(r"code [0-9a-f]{8}", before["plug-in own_nets"])
    assert before["plug-in not_there_at_all"] == "none"
    (tmp_path / "own_nets.py").write_text("def tiny(num_classes, in_channels): return 1\n")
    after = node_checks.installed(["own_nets"])
    assert after["plug-in own_nets"] != before["plug-in own_nets"]
    assert after["orchestrator"] == before["orchestrator"]


def test_the_one_node_that_differs_is_the_one_named() -> None:
    own = {"python": "3.11.7", "torch": "2.15.0", "orchestrator": "code aaaaaaaa"}
    others = {"a": dict(own), "b": own | {"torch": "2.14.0"}, "c": own | {"orchestrator": "code bbbbbbbb"}}
    assert node_checks.differences(own, others) == {
        "b": "has torch 2.14.0, the driver 2.15.0",
        "c": "has orchestrator code bbbbbbbb, the driver code aaaaaaaa",
    }
    assert node_checks.differences(own, {"a": own}) == {}


def test_a_driver_may_lack_torch_but_nodes_must_agree() -> None:
    own = {"torch": "none"}
    assert node_checks.differences(own, {"a": {"torch": "2.15.0"}, "b": {"torch": "2.15.0"}}) == {}
    problems = node_checks.differences(own, {"a": {"torch": "2.15.0"}, "b": {"torch": "2.14.0"}})
    assert problems == {"b": "has torch 2.14.0, other nodes 2.15.0"}


def test_a_promised_gpu_that_torch_does_not_see_is_told() -> None:
    import torch

    seen = torch.cuda.device_count()
    assert node_checks._gpu_problem(0) is None
    assert node_checks._gpu_problem(seen + 1) == f"offers {seen + 1} GPUs, PyTorch sees {seen}"


def test_a_file_that_never_comes_is_waited_for_and_told(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("another run's")
    assert "does not share --out" in str(node_checks._unseen(tmp_path / "mark", "token", 0.2))
    assert "does not share --out" in str(node_checks._unseen(tmp_path / "nothing", "token", 0.2))
    (tmp_path / "mark").write_text("token")
    assert node_checks._unseen(tmp_path / "mark", "token", 0.2) is None
    assert "cannot read --out" in str(node_checks._unseen(tmp_path / "mark" / "below", "token", 0.2))
    assert os.listdir(tmp_path) == ["mark"]


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(node_checks.UnfitNode, match=f"--address 127.0.0.1:{port}: no Ray cluster answers there"):
            node_checks.check_address(f"127.0.0.1:{port}")
        held.listen()
        node_checks.check_address(f"127.0.0.1:{port}")
    for address in ("local", "auto"):
        node_checks.check_address(address)
