"""The cluster launcher's files are what Ray's own launcher takes, and keep what the guide promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
FILES = ["cluster.yaml", "docs/cluster/aws.yaml", "docs/cluster/gcp.yaml"]


def prepared(name: str) -> dict[str, Any]:
    config = prepare_config(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    config = prepared(name)
    assert config["cluster_name"] == "prunesweep"
    assert config["file_mounts"]["~/prunesweep"] == "."


@pytest.mark.parametrize("name", FILES)
def test_nothing_listens_without_a_token(name: str) -> None:
    """The token goes to every machine, every shell turns it on, and the dashboard stays on the head's loopback."""
    config = prepared(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    (start,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    commands = [command for key in config if key.endswith("_commands") for command in config[key]]
    assert not any("0.0.0.0" in command for command in commands)


@pytest.mark.parametrize("name", FILES)
def test_versions_come_from_the_constraints(name: str) -> None:
    (install,) = [command for command in prepared(name)["setup_commands"] if "-e ~/prunesweep" in command]
    assert "-c ~/prunesweep/constraints.txt" in install
    assert re.search(r"^ray==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_every_machine_of_ones_own_is_used() -> None:
    config = prepared("cluster.yaml")
    (kind,) = config["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(config["provider"]["worker_ips"])


@pytest.mark.parametrize("name", FILES[1:])
def test_clouds_scale_gpu_workers_from_none_on_spot_machines(name: str) -> None:
    config = prepared(name)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["max_workers"] == 0
    worker = types["gpu_worker"]
    assert (worker["min_workers"], worker["resources"]["GPU"]) == (0, 1)
    assert worker["max_workers"] == config["max_workers"] > 0
    said = str(worker["node_config"])
    assert "'MarketType': 'spot'" in said or "'preemptible': True" in said


def test_the_guide_names_only_files_that_are_there() -> None:
    guide = ROOT / "docs/cluster/README.md"
    for link in re.findall(r"\]\(([^)#:]+)\)", guide.read_text(encoding="utf-8")):
        assert (guide.parent / link).exists(), link
