"""Every search space of a published table plans, and so does the scale-down that its comments give."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.analysis.papers import table
from orchestrator.analysis.published import cells
from orchestrator.cli import app
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.planning import Plan, plan

FOLDER = Path(__file__).resolve().parents[2] / "searchspaces" / "papers"
TABLES = {
    "000": [1, 2, 3, 4],
    "001": [1, 2, 5, 7, 8, 14],
    "002": [1, 2, 4],
    "003": [2, 4],
    "004": [1, 3, 4, 5, 6],
}
NAMES = [f"{paper}_table{number}" for paper, numbers in TABLES.items() for number in numbers]
PREFIX = "# scale-down: "
NOT_HERE = {
    "OLMP, layer-wise magnitude via optimisation (Li 2018)",
    "Decorrelation regularisation (Zhu 2018)",
    "Training sparse networks (Srinivas 2017)",
    "DCP-Adapt (Zhuang 2018)",
    "DCP (Zhuang 2018)",
}
"""Printed rows of methods that no search space can name; DCP's two are run as `dcp`."""


@pytest.fixture(autouse=True, scope="module")
def imagenet10(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The one image set that is the user's own has to be there, under its relative path."""
    here = tmp_path_factory.mktemp("here")
    for split in ("train", "val"):
        folder = here / "imagenet10" / split / "tench"
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(b"an image")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        yield


@cache
def planned(name: str) -> Plan:
    return plan(SearchSpace.load(FOLDER / f"{name}.yaml"))


@cache
def planned_small(name: str) -> tuple[list[str], dict[str, Any]]:
    """The arguments of the scale-down, and what `prunesweep plan` says to them."""
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    comments = [line.removeprefix(PREFIX) for line in lines if line.startswith(PREFIX)]
    assert len(comments) == 1
    arguments = shlex.split(comments[0])
    result = CliRunner().invoke(app, ["plan", str(FOLDER / f"{name}.yaml"), *arguments, "--json", "--out", "runs"])
    assert result.exit_code == 0, result.output
    return arguments, json.loads(result.output)


def test_there_is_one_file_a_table() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_plans_and_says_what_it_is(name: str) -> None:
    this = planned(name)
    assert this.space.name == f"paper{name}"
    assert this.space.question
    assert this.space.question.endswith("?")
    paper, _, number = name.partition("_table")
    comment = (FOLDER / f"{name}.yaml").read_text().split("\nname:")[0]
    assert re.match(rf"# Paper {paper} \([^)]+\), table {number}: ", comment)
    assert this.trials
    assert this.repeated == 0
    assert {trial.spec.data.name for trial in this.trials} <= {"mnist", "cifar10", "imagenet", "image_folder"}
    # A relative path is the only one that a file may name: it lies where the user is.
    paths = {trial.spec.data.params.get("path") for trial in this.trials}
    assert paths <= {None, str(Path("imagenet10").resolve())}


@pytest.mark.parametrize("name", NAMES)
def test_its_scale_down_plans_on_digits_without_a_gpu(name: str) -> None:
    arguments, facts = planned_small(name)
    assert set(arguments[::2]) == {"--set"}
    values = dict(argument.split("=", 1) for argument in arguments[1::2])
    assert "digits" in values["data"]
    if planned(name).space.resources.gpus:
        assert (values["resources.gpus"], values["resources.cpus"]) == ("0", "1")
    assert facts["sweep"] == f"paper{name}_small"
    assert 1 <= facts["trials"] <= 12
    assert {arm["method"] for arm in facts["arms"]} <= {trial.spec.method.name for trial in planned(name).trials}


@pytest.mark.parametrize("name", [name for name in NAMES if name[:4] in ("000_", "002_", "003_")])
def test_every_printed_row_of_a_method_of_ours_has_a_trial(name: str) -> None:
    """Rows are matched here by method, model and what is asked for; `compare` does so by what was achieved."""
    paper, _, number = name.partition("_table")
    specs = [trial.spec for trial in planned(name).trials]
    asked = {(spec.method.name, plain(spec.model.name), spec.target.sparsity) for spec in specs}
    for cell in cells(table(paper, number)):
        if not cell.method or cell.method in NOT_HERE or cell.plan:
            continue
        (wanted,) = (cell.near or {}).values()
        near = [
            sparsity
            for method, model, sparsity in asked
            if (method, model) == (cell.method, plain(cell.model)) and sparsity is not None
        ]
        assert any(abs(sparsity - wanted) <= min(0.02, 0.25 * (1 - wanted)) for sparsity in near), cell.row


def plain(model: str) -> str:
    return re.sub(r"[^a-z0-9]", "", model.lower().rpartition(":")[2])


def test_the_ten_pairs_of_multipliers_are_those_printed() -> None:
    defaults = {"base_lambda_m": 3.0, "base_lambda_v": 4.0}
    params = [{**defaults, **trial.spec.method.params} for trial in planned("004_table5").trials]
    pairs = {(p["base_lambda_m"], p["base_lambda_v"]) for p in params}
    printed = {(row["lambda_m_base"], row["lambda_v_base"]) for row in table("004", 5).rows}
    assert len(printed) == 10
    assert pairs == printed


def test_what_a_mapping_of_an_axis_sets_is_told_apart() -> None:
    """Else the table of a sweep would take the ten pairs for ten seeds of one setting."""
    assert planned("004_table5").varied == ["method.base_lambda_m", "method.base_lambda_v", "method.budget", "seed"]
    assert planned("001_table1").varied == ["model", "retrain", "retrain.epochs", "seed"]


def test_plans_of_the_published_networks_are_used() -> None:
    trials = planned("001_table2").trials
    used = {(trial.spec.model.name, trial.point["target.plan"]) for trial in trials}
    assert {model for model, _ in used} == {"vgg16", "resnet56", "resnet110", "torchvision:resnet34"}
    assert ("resnet56", "pfec_d") in used
    assert all(trial.spec.target.kept for trial in trials)
