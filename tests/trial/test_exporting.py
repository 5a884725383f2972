"""An exported network gives the outputs of the cut network, for any number of images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.surgery.cutting import cut
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.selection import ChannelSelection
from orchestrator.sweep.space.resolve import resolve
from orchestrator.testing.networks import CHANNELS, SIZE, network
from orchestrator.trial import exporting
from orchestrator.trial.exporting import TOLERANCE, ExportError, export
from orchestrator.trial.run import run_trial


def _halved(kind: str) -> nn.Module:
    dense = network(kind)
    example = torch.zeros(1, CHANNELS, SIZE, SIZE)
    kept = {group.name: tuple(range(0, group.size, 2)) for group in channel_groups(dense, example)}
    return cut(dense, example, ChannelSelection(kept))


def _images(count: int) -> Tensor:
    return torch.randn(count, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["chain", "residual", "depthwise"])
@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_cut_networks_agree(kind: str, form: exporting.Format, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="needs the optional packages of `export`")
        onnxruntime = pytest.importorskip("onnxruntime", reason="needs the optional packages of `export`")
    pruned = _halved(kind)
    exported = export(pruned, _images(8), tmp_path / f"model.{form}", form)
    assert exported.difference <= 1e-4
    assert exported.exported.median > 0
    assert exported.pytorch.median > 0
    assert [path.name for path in tmp_path.iterdir()] == [f"model.{form}"]
    others = _images(5)  # neither the batch size nor the images of the check
    if form == "pt2":
        outputs = torch.export.load(exported.path).module()(others)
    else:
        session = onnxruntime.InferenceSession(exported.path)
        assert session.get_inputs()[0].shape == ["batch", CHANNELS, SIZE, SIZE]
        outputs = torch.from_numpy(session.run(None, {"images": others.numpy()})[0])
    torch.testing.assert_close(outputs, pruned.eval()(others), atol=1e-4, rtol=0)


def test_a_file_with_other_outputs_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = exporting._pt2

    def wrong(model: nn.Module, example: Tensor, path: Path) -> exporting.Function:
        loaded = write(model, example, path)
        return lambda images: loaded(images) + 10 * TOLERANCE

    monkeypatch.setattr(exporting, "_pt2", wrong)
    with pytest.raises(ExportError, match=r"model\.pt2: its outputs differ from PyTorch's by 0\.001, more than"):
        export(_halved("chain"), _images(4), tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


class _Counting(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.new_ones(len(images), int(images.sum()))


def test_a_network_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.pt2: cannot be written"):
        export(_Counting(), _images(4), tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Return the folder of a store with a finished and a failed trial of one sweep, and their ids."""
    from orchestrator.records.records import write_result

    out = tmp_path_factory.mktemp("store")
    plain = {
        "model": "lenet5",
        "data": {"name": "digits", "size": 16},
        "baseline": {"epochs": 0},
        "method": "l1_norm",
        "retrain": {"epochs": 0},
    }
    ids = []
    for sparsity in (0.5, 0.9999):
        spec = resolve({**plain, "target": {"sparsity": sparsity}})
        result = run_trial(spec, Workspace(Store(out), "s"))
        write_result(Store(out), out / "s" / "trials" / spec.trial_id, result)
        ids.append(spec.trial_id)
    (out / "s" / "searchspace.yaml").write_text("name: s\n")
    return out, ids[0], ids[1]


def test_the_command_exports_a_trial(store: tuple[Path, str, str]) -> None:
    out, done, _ = store
    result = CliRunner().invoke(app, ["export", "s", done, "--format", "pt2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert (out / "s" / "trials" / done / "model.pt2").is_file()
    assert "on 64 test images" in result.output
    assert "PyTorch" in result.output
    assert "ms" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s", "{near}", "--format", "pt2"], "did you mean '{done}'?"),
        (["s", "{failed}", "--format", "pt2"], "ended as 'failed': there is no network to export (CannotMeetTarget"),
        (["s", "{done}", "--format", "tflite"], "--format: must be onnx or pt2, found 'tflite'"),
        (["t", "{done}", "--format", "pt2"], "no sweep 't'"),
    ],
)
def test_an_error_is_one_message(arguments: list[str], message: str, store: tuple[Path, str, str]) -> None:
    out, done, failed = store
    names = {"done": done, "failed": failed, "near": done[:-1] + "x"}
    filled = [argument.format(**names) for argument in arguments]
    result = CliRunner().invoke(app, ["export", *filled, "--out", str(out)])
    assert result.exit_code == 2, result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
    assert message.format(**names) in result.output


def test_a_missing_package_is_named(store: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    out, done, _ = store
    monkeypatch.setitem(exporting._NEEDS, "onnx", ("onnx_of_nowhere",))
    result = CliRunner().invoke(app, ["export", "s", done, "--format", "onnx", "--out", str(out)])
    assert result.exit_code == 2
    assert "needs onnx_of_nowhere, not installed here: pip install 'prunesweep[export]'" in result.output


def test_a_damaged_network_is_refused(store: tuple[Path, str, str], tmp_path: Path) -> None:
    out, done, _ = store
    folder = tmp_path / "trial"
    folder.mkdir()
    data = resolve({"model": "lenet5", "data": "digits", "method": "random", "target": {"sparsity": 0.5}}).data
    with pytest.raises(ExportError, match=r"cut\.json: no network was saved"):
        exporting.export_trial(folder, data, "pt2")
    saved = out / "s" / "trials" / done
    (folder / "cut.json").write_bytes((saved / "cut.json").read_bytes())
    (folder / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(ExportError, match=r"cannot be built: .*not the file that"):
        exporting.export_trial(folder, data, "pt2")
