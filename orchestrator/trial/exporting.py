"""A trial's pruned network as an ONNX file or a `torch.export` program, checked against PyTorch's outputs."""

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
from orchestrator.spec.trial import Choice
from orchestrator.surgery.serialization import DamagedModel, rebuild

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
TOLERANCE = 1e-4
"""Largest difference of two outputs, as a share of the largest output or of 1, whichever is more."""

_NEEDS: dict[Format, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}
_IMAGES = 64

Function = Callable[[Tensor], Tensor]


class CannotExport(ValueError):
    """A network that cannot be written in a format, or whose file computes something else."""


@dataclass(frozen=True)
class Exported:
    """A file that was checked. Latencies are of one image on this machine's CPU, interleaved."""

    path: Path
    difference: float
    """Largest absolute difference of any output to PyTorch's."""
    images: str
    """What the outputs were compared on."""
    exported: Timing
    pytorch: Timing


def export_trial(folder: Path, data: Choice, form: str) -> Exported:
    """Write ``model.onnx`` or ``model.pt2`` beside the saved network of a trial; any batch size may be given to it.

    The file appears once it computes what PyTorch computes, within `TOLERANCE`, for ``data``'s first test images (for
    random ones where the set is not at hand), one at a time and many.

    Args:
        folder: the trial's folder, with ``model.safetensors`` and ``cut.json``.
        data: the image set the trial was run on.
        form: one of `FORMATS`.

    Raises:
        CannotExport: an unknown format, a missing package or network, an operation that the format has no word for, or
            outputs that differ.
    """
    if form not in FORMATS:
        raise CannotExport(f"--format: must be {' or '.join(FORMATS)}, found {form!r}")
    missing = [package for package in _NEEDS[form] if importlib.util.find_spec(package) is None]
    if missing:
        raise CannotExport(
            f"--format {form}: needs {', '.join(missing)}, not installed here: pip install 'prunesweep[export]'"
        )
    network, example = _saved(folder)
    images, what = _images(data, example)
    return export(network, images, folder / f"model.{form}", form, what)


def export(network: nn.Module, images: Tensor, path: Path, form: Format, what: str = "the images given") -> Exported:
    """Write a network that takes ``images`` (N x C x H x W, on the CPU), checked on them.

    Raises:
        CannotExport: see `export_trial`.
    """
    network.eval()
    # Of one image the exporters would conclude that there is always one.
    example = images[:1].contiguous().repeat(2, 1, 1, 1)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as drafts:
        draft = Path(drafts) / path.name
        try:
            with warnings.catch_warnings():
                # The exporters warn of their own imports; what goes wrong they raise.
                warnings.simplefilter("ignore")
                loaded = (_onnx if form == "onnx" else _pt2)(network, example, draft)
                difference = max(_difference(network, loaded, batch) for batch in (images, images[:1]))
        except CannotExport as error:
            raise CannotExport(f"{path}: {error}") from None
        except Exception as error:  # the exporters raise errors of many kinds
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            raise CannotExport(f"{path}: cannot be written: {type(error).__name__}: {reason}") from error
        os.replace(draft, path)
    # The stopwatch leaves a network in a layout and a mode of its own.
    timings = measure({"exported": _Module(loaded), "pytorch": copy.deepcopy(network)}, images[:1])
    return Exported(path, difference, what, timings["exported"], timings["pytorch"])


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
    """What the stopwatch takes: an exported program cannot be put in evaluation mode, it is in no other."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self._function = (function,)  # in a tuple, where torch does not look for submodules

    def forward(self, images: Tensor) -> Tensor:
        return self._function[0](images)


@torch.inference_mode()
def _difference(network: nn.Module, loaded: Function, images: Tensor) -> float:
    ours: Tensor = network(images)
    theirs = loaded(images)
    if theirs.shape != ours.shape:
        raise CannotExport(f"gives outputs of shape {tuple(theirs.shape)}, PyTorch {tuple(ours.shape)}")
    difference = float((theirs - ours).abs().max())
    allowed = TOLERANCE * max(1.0, float(ours.abs().max()))
    if not difference <= allowed:
        raise CannotExport(f"its outputs differ from PyTorch's by {difference:.2g}, more than {allowed:.2g}")
    return difference


def _saved(folder: Path) -> tuple[nn.Module, Tensor]:
    """The network in a trial's folder, on the CPU, and one empty image."""
    try:
        facts = json.loads((folder / "cut.json").read_text(encoding="utf-8"))
        shape, choice = facts["shape"], facts["model"]
        example = torch.zeros(1, shape["channels"], shape["size"], shape["size"])
        dense = build(choice["name"], choice["params"], **shape)
        return rebuild(dense, example, folder), example
    except FileNotFoundError:
        raise CannotExport(f"{folder / 'cut.json'}: no network was saved") from None
    except (KeyError, ValueError, DamagedModel, ModelError, UnknownName) as error:
        raise CannotExport(f"{folder}: the saved network cannot be built: {error}") from error


def _images(data: Choice, example: Tensor) -> tuple[Tensor, str]:
    params = {name: value for name, value in data.params.items() if name != "fingerprint"}
    try:
        opened = open_data(data.name, params, device=torch.device("cpu"))
    except (DataError, OSError, UnknownName):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(_IMAGES, *example.shape[1:], generator=generator), f"{_IMAGES} random images"
    images, _ = next(batches(opened.test, _IMAGES, data=opened, generator=None, augment=False))
    return images, f"{len(images)} test images"
