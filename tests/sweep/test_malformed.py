"""Malformed search spaces: one message with path, value and remedy, exit code 2, no traceback, nothing written."""

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.storage.store import Store

GOOD = """
name: s
base:
  model: lenet5
  data: {name: digits, size: 16}
  target: {sparsity: 0.5}
  retrain: {name: clr, epochs: 1}
axes:
  seed: [0, 1]
arms:
  - method: l1_norm
  - method: network_slimming
    axes:
      method.penalty_weight: [0.1, 0.2]
"""

# name -> what is replaced, by what, and what the message must say.
CASES: dict[str, tuple[str, str, list[str]]] = {
    "unknown method": ("- method: l1_norm", "- method: l1_nrom", ["arms[0].method", "l1_nrom", "'l1_norm'"]),
    "unknown model": ("model: lenet5", "model: lenet55", ["base.model", "lenet55", "'lenet5'"]),
    "unknown data": ("name: digits", "name: digitz", ["base.data", "digitz", "'digits'"]),
    "unknown schedule": ("name: clr", "name: cl", ["base.retrain", "'cl'", "'clr'"]),
    "misspelt axis": (
        "method.penalty_weight",
        "method.penalty_wieght",
        ["arms[1].axes.method.penalty_wieght", "penalty_wieght", "'penalty_weight'"],
    ),
    "axis of no section": ("seed: [0, 1]", "sed: [0, 1]", ["axes.sed", "'sed'", "'seed'"]),
    "sparsity above one": ("sparsity: 0.5", "sparsity: 1.3", ["base.target.sparsity", "1.3", "less than 1"]),
    "sparsity of an axis": (
        "seed: [0, 1]",
        "target.sparsity: [0.5, 1.3]",
        ["axes.target.sparsity[1]", "1.3", "less than 1"],
    ),
    "text for a number": ("epochs: 1", "epochs: many", ["base.retrain.epochs", '"many"', "integer"]),
    "text for a parameter": (
        "[0.1, 0.2]",
        "[0.1, strong]",
        ["arms[1].axes.method.penalty_weight[1]", '"strong"', "number"],
    ),
    "negative parameter": ("[0.1, 0.2]", "[-0.1]", ["arms[1].axes.method.penalty_weight", "-0.1", "0"]),
    "empty axis": ("seed: [0, 1]", "seed: []", ["axes.seed", "[]"]),
    "axis without values": ("seed: [0, 1]", "seed: 3", ["axes.seed", "3", "list"]),
    "repeated value": ("seed: [0, 1]", "seed: [0, 1, 0]", ["axes.seed[2]", "0"]),
    "range upside down": ("seed: [0, 1]", "seed: {low: 3, high: 1, step: 1}", ["axes.seed", "3", "1"]),
    "range without points": ("seed: [0, 1]", "seed: {low: 0, high: 9}", ["axes.seed", "step", "grid"]),
    "range misspelt": ("seed: [0, 1]", "seed: {low: 0, hgih: 9}", ["axes.seed.hgih", "'high'"]),
    "duplicate arm": (
        "- method: network_slimming\n    axes:\n      method.penalty_weight: [0.1, 0.2]",
        "- method: l1_norm",
        ["arms[1]", "arms[0]", "l1_norm"],
    ),
    "key twice": ("model: lenet5", "model: lenet5\n  model: vgg16", ["model", "twice"]),
    "unknown top name": ("axes:\n  seed", "axis:\n  seed", ["axis", "'axes'"]),
    "unknown base section": ("target: {", "taget: {", ["base.taget", "'target'"]),
    "model missing": ("model: lenet5\n", "baseline: {epochs: 1}\n", ["base.model", "missing"]),
    "name missing": ("name: s\n", "question: why\n", ["name", "missing"]),
    "name is a path": ("name: s\n", "name: ../s\n", ["name", "../s"]),
    "impossible pair": ("- method: l1_norm", "- method: magnitude", ["magnitude", "weights", "'macs'"]),
    "other impossible pair": (
        "target: {sparsity: 0.5}",
        "target: {sparsity: 0.5, quantity: weights}",
        ["base.target.quantity", "l1_norm", "'weights'"],
    ),
    "unknown quantity": ("sparsity: 0.5}", "sparsity: 0.5, quantity: flops}", ["base.target.quantity", "flops"]),
    "no sparsity": ("target: {sparsity: 0.5}", "target: {quantity: macs}", ["base.target", "sparsity", "neither"]),
    "negative seed": ("seed: [0, 1]", "seed: [0, -1]", ["axes.seed[1]", "-1"]),
    "unknown search": ("name: s\n", "name: s\nsearch: gird\n", ["search.name", "gird", "'grid'"]),
    "random without trials": ("name: s\n", "name: s\nsearch: random\n", ["search.trials", "missing"]),
    "unknown objective": ("name: s\n", "name: s\nobjectives: {acuracy: max}\n", ["objectives.acuracy", "'accuracy'"]),
    "constraint in words": (
        "name: s\n",
        "name: s\nconstraints: {latency_ms: fast}\n",
        ["constraints", "fast", "<= 12"],
    ),
    "unreadable data": (
        "{name: digits, size: 16}",
        "{name: parquet, path: no/such/folder}",
        ["base.data.path", "no/such/folder"],
    ),
    "unknown architecture": ("model: lenet5", "model: torchvision:resnet81", ["base.model", "resnet81", "'resnet18'"]),
    "own module missing": ("model: lenet5", "model: no_such_pkg:net", ["base.model", "no_such_pkg"]),
    "own method missing": ("- method: l1_norm", "- method: no_such_pkg:Mine", ["arms[0].method", "no_such_pkg"]),
    "own method of __main__": ("- method: l1_norm", "- method: __main__:Mine", ["arms[0].method", "'__main__'"]),
    "own data missing": ("{name: digits, size: 16}", "no_such_pkg:mine", ["base.data", "no_such_pkg"]),
    "own schedule missing": ("{name: clr, epochs: 1}", "no_such_pkg:mine", ["base.retrain", "no_such_pkg"]),
    "own search missing": ("name: s\n", "name: s\nsearch: no_such_pkg:Mine\n", ["search.name", "no_such_pkg"]),
    "own stopper missing": ("name: s\n", "name: s\nstopper: no_such_pkg:Mine\n", ["stopper.name", "no_such_pkg"]),
    "own metric missing": ("name: s\n", "name: s\nmetrics: [no_such_pkg:Mine]\n", ["metrics[0]", "no_such_pkg"]),
    "unknown stopper": ("name: s\n", "name: s\nstopper: ahsa\n", ["stopper.name", "ahsa", "'asha'"]),
    "misspelt parameter of a search": (
        "name: s\n",
        "name: s\nsearch: {name: random, trails: 9}\n",
        ["search.trails", "'trails'", "'trials'"],
    ),
    "resources in words": ("name: s\n", "name: s\nresources: {cpus: two}\n", ["resources.cpus", '"two"']),
    "not yaml": ("base:", "base: [", ["YAML"]),
    "a list": (GOOD, "- 1\n- 2\n", ["mapping"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_one_clear_message(case: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old, new, parts = CASES[case]
    assert old in GOOD
    Path("s.yaml").write_text(GOOD.replace(old, new))
    result = CliRunner().invoke(app, [command, "s.yaml"])
    assert result.exit_code == 2, result.output
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, result.output
    for part in parts:
        assert part in lines[0]
    assert not Path("runs").exists()


def test_the_good_one_is_good(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "s.yaml"), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "6 trials" in result.output


@pytest.mark.parametrize("setting", ["retrain.epochs", "retrain.epochs=[", "retrain.epochs=x", "nothing=1"])
def test_bad_settings(setting: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "s.yaml"), "--set", setting])
    assert result.exit_code == 2, result.output
    assert len(result.output.strip().splitlines()) == 1, result.output


def test_plan_imports_no_torch_and_no_ray(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    code = (
        "import sys; from orchestrator.sweep.planning import plan; from orchestrator import SearchSpace\n"
        "plan(SearchSpace.load('s.yaml'))\n"
        "sys.exit(','.join({'torch', 'ray', 'mlflow', 'torchvision'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    """A bad image cannot be seen by a plan; the trial that meets it says which image of which file it is."""
    from PIL import Image

    from orchestrator.storage.workspace import Workspace
    from orchestrator.sweep.space.resolve import resolve
    from orchestrator.trial.run import run_trial

    def encoded(value: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("L", (8, 8), value).save(buffer, "PNG")
        return buffer.getvalue()

    for split in ("train", "test"):
        images = [{"bytes": encoded(i * 9), "path": None} for i in range(20)]
        if split == "train":
            images[13]["bytes"] = b"no image"
        labels = [i % 2 for i in range(20)]
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{split}.parquet")
    spec = resolve(
        {
            "model": "lenet_300_100",
            "data": {"name": "parquet", "path": str(tmp_path)},
            "method": "l1_norm",
            "target": {"sparsity": 0.5},
        }
    )
    result = run_trial(spec, Workspace(Store(tmp_path / "runs"), "s", data_cache=tmp_path / "cache"))
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.startswith("CorruptImage: ")
    assert "train.parquet" in result.error
    assert "row 13" in result.error
