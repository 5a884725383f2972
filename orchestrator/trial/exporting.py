"""Export a trial's pruned network to ONNX or `torch.export`, checked against PyTorch's outputs."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from orchestrator.data.images import batches, open_data
from orchestrator.data.source import DataError
from orchestrator.metrics.latency import Timing, measure
from orchestrator.models.build import ModelError, build
from orchestrator.plugins import UnknownName
from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.trial import Choice
from orchestrator.storage.sweep_paths import TrialPaths
from orchestrator.surgery.serialization import DamagedModel, rebuild

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
TOLERANCE = 1e-4
"""Largest accepted difference of two outputs, relative to the larger of 1 and the largest output."""

_NEEDS: dict[Format, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}
_IMAGES = 64

Function = Callable[[Tensor], Tensor]


class ExportError(PrunesweepError, ValueError):
    """A network that cannot be exported, or whose file gives other outputs."""


@dataclass(frozen=True)
class ExportedModel:
    """A checked file, with its latency and PyTorch's for one image on this machine's CPU, measured interleaved."""

    path: Path
    difference: float
    """Largest absolute difference of any output from PyTorch's."""
    images: str
    """Description of the images on which the outputs were compared."""
    exported: Timing
    pytorch: Timing


def export_trial(folder: Path, data: Choice, form: str) -> ExportedModel:
    """Write ``model.onnx`` or ``model.pt2``, of any batch size, beside the saved network of a trial.

    The file is put in place after its outputs equalled PyTorch's within `TOLERANCE` for the first test images of
    ``data`` (for random images if the set is not available), as a batch and as a single image.

    Args:
        folder: the trial's folder, with ``model.safetensors`` and ``cut.json``.
        data: the image set the trial was run on.
        form: one of `FORMATS`.

    Raises:
        ExportError: an unknown format, a missing package or network, an operation that the format does not support,
            or outputs that differ.
    """
    if form not in FORMATS:
        raise ExportError(f"--format: must be {' or '.join(FORMATS)}, found {form!r}")
    missing = [package for package in _NEEDS[form] if importlib.util.find_spec(package) is None]
    if missing:
        raise ExportError(
            f"--format {form}: needs {', '.join(missing)}, not installed here: pip install 'prunesweep[export]'"
        )
    network, example = _load_network(folder)
    images, description = _images(data, example)
    return export(network, images, folder / f"model.{form}", form, description)


def export(
    network: nn.Module, images: Tensor, path: Path, form: Format, description: str = "the images given"
) -> ExportedModel:
    """Write a network to ``path``, checked on ``images`` (N x C x H x W, on the CPU).

    Raises:
        ExportError: see `export_trial`.
    """
    network.eval()
    # From a batch of one image the exporters would infer that the batch size is always 1.
    example = images[:1].contiguous().repeat(2, 1, 1, 1)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as drafts:
        draft = Path(drafts) / path.name
        try:
            with warnings.catch_warnings():
                # The exporters warn about their own imports; errors are raised.
                warnings.simplefilter("ignore")
                loaded = (_onnx if form == "onnx" else _pt2)(network, example, draft)
                difference = max(_difference(network, loaded, batch) for batch in (images, images[:1]))
        except ExportError as error:
            raise ExportError(f"{path}: {error}") from None
        except Exception as error:  # the exporters raise many types
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            raise ExportError(f"{path}: cannot be written: {type(error).__name__}: {reason}") from error
        os.replace(draft, path)
    # Measuring changes a network's memory format and mode.
    timings = measure({"exported": _Module(loaded), "pytorch": copy.deepcopy(network)}, images[:1])
    return ExportedModel(path, difference, description, timings["exported"], timings["pytorch"])


def _onnx(network: nn.Module, example: Tensor, path: Path) -> Function:
    import onnxruntime

    torch.onnx.export(
        network,
        (example,),
        path,
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        external_data=False,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.contiguous().numpy()})[0])

    return run


def _pt2(network: nn.Module, example: Tensor, path: Path) -> Function:
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    loaded: Function = torch.export.load(path).module()
    return loaded


class _Module(nn.Module):
    """A module that can be measured: an exported program has no evaluation mode to switch to."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self._function = (function,)  # in a tuple, so that torch does not register it as a submodule

    def forward(self, images: Tensor) -> Tensor:
        return self._function[0](images)


@torch.inference_mode()
def _difference(network: nn.Module, loaded: Function, images: Tensor) -> float:
    expected: Tensor = network(images)
    outputs = loaded(images)
    if outputs.shape != expected.shape:
        raise ExportError(f"gives outputs of shape {tuple(outputs.shape)}, PyTorch {tuple(expected.shape)}")
    difference = float((outputs - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ExportError(f"its outputs differ from PyTorch's by {difference:.2g}, more than {allowed:.2g}")
    return difference


def _load_network(folder: Path) -> tuple[nn.Module, Tensor]:
    """Load the network of a trial's folder on the CPU; return it with one blank image."""
    try:
        facts = json.loads(TrialPaths(folder).cut.read_text(encoding="utf-8"))
        shape, choice = facts["shape"], facts["model"]
        example = torch.zeros(1, shape["channels"], shape["size"], shape["size"])
        dense = build(choice["name"], choice["params"], **shape)
        return rebuild(dense, example, folder), example
    except FileNotFoundError:
        raise ExportError(f"{TrialPaths(folder).cut}: no network was saved") from None
    except (KeyError, ValueError, DamagedModel, ModelError, UnknownName) as error:
        raise ExportError(f"{folder}: the saved network cannot be built: {error}") from error


def _images(data: Choice, example: Tensor) -> tuple[Tensor, str]:
    """Return images to compare outputs on, and their description."""
    params = {name: value for name, value in data.params.items() if name != "fingerprint"}
    try:
        opened = open_data(data.name, params, device=torch.device("cpu"))
    except (DataError, OSError, UnknownName):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(_IMAGES, *example.shape[1:], generator=generator), f"{_IMAGES} random images"
    images, _ = next(batches(opened.test, _IMAGES, data=opened, generator=None, augment=False))
    return images, f"{len(images)} test images"
