"""Pruned networks on disk: tensors in ``model.safetensors``, the cut in ``cut.json``, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from orchestrator.spec.errors import PrunesweepError
from orchestrator.storage.atomic import replacing
from orchestrator.storage.checksums import sha256_of
from orchestrator.storage.sweep_paths import TrialPaths
from orchestrator.surgery.cutting import CannotCut, cut
from orchestrator.surgery.selection import ChannelSelection

_FORMAT = 1


class DamagedModel(PrunesweepError, ValueError):
    """Raised for a saved network that is incomplete, or not the expected one."""


def save_pruned(folder: Path, model: nn.Module, cut: Mapping[str, Any]) -> None:
    """Write a pruned network; ``cut`` is plain JSON, with the units that each channel group keeps under ``kept``.

    ``kept`` is None for pruned weights: their zeros are saved with the others.

    Both files are written atomically, ``cut.json`` last: where it matches the tensors, the save is complete. Tensors
    are stored contiguous, on the CPU, and separately where the network shares them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _state(model).items()}
    with replacing(TrialPaths(folder).network) as path:
        safetensors.torch.save_file(state, path)
    described = {"format": _FORMAT, **cut, "sha256": sha256_of(TrialPaths(folder).network)}
    text = json.dumps(described, indent=1, sort_keys=True, allow_nan=False)
    with replacing(TrialPaths(folder).cut) as path:
        path.write_text(text, encoding="utf-8")


def rebuild(dense_model: nn.Module, example: Tensor, folder: Path) -> nn.Module:
    """Return the saved network: a copy of ``dense_model``, cut the same way, with the saved tensors.

    ``example`` is a batch as the network takes it; the result is on the device of ``dense_model``. Raises
    :class:`DamagedModel` where a file is missing, unreadable, of another save than the other file, or of another
    network.
    """
    described = _read_cut(TrialPaths(folder).cut)
    path = TrialPaths(folder).network
    if not path.is_file():
        raise DamagedModel(f"{path}: missing")
    if sha256_of(path) != described.get("sha256"):
        raise DamagedModel(f"{path}: not the file that cut.json was written for")
    kept = described.get("kept") or {}
    try:
        selection = ChannelSelection({name: tuple(units) for name, units in kept.items()})
        model = cut(dense_model, example, selection)
    except (CannotCut, AttributeError, TypeError) as error:
        raise DamagedModel(f"{TrialPaths(folder).cut}: does not fit the network: {error}") from error
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise DamagedModel(f"{path}: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in _state(model).items()}
    for name in sorted(expected.keys() ^ state.keys()):
        raise DamagedModel(f"{path}: tensor {name!r} is {'missing' if name in expected else 'not of this network'}")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise DamagedModel(f"{path}: tensor {name!r} has shape {tuple(state[name].shape)}, not {shape}")
    model.load_state_dict(state)
    return model


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _read_cut(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedModel(f"{path}: missing") from None
    except ValueError as error:
        raise DamagedModel(f"{path}: {error}") from error
    if not isinstance(described, dict) or described.get("format") != _FORMAT:
        raise DamagedModel(f"{path}: not a description of a cut in format {_FORMAT}")
    return described
