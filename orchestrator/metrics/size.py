"""Sizes of a network and the shares that pruning removed, in total and by layer."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from orchestrator.metrics.macs import layer_macs
from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.result import LayerRow

Convolution = nn.modules.conv._ConvNd
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class LayersDiffer(PrunesweepError, ValueError):
    """Raised where the pruned network is not the dense network with channels removed."""


def layer_table(dense: nn.Module, pruned: nn.Module, example: Tensor) -> list[LayerRow]:
    """Return a row for each convolution, linear and norm layer, in order of definition.

    ``example``: a batch (N, channels, ...) as both networks take it. Raises :class:`LayersDiffer` where a layer of the
    dense network is not in the pruned one.
    """
    cut = dict(pruned.named_modules())
    macs_before, macs_after = layer_macs(dense, example), layer_macs(pruned, example)
    rows = []
    for name, layer in dense.named_modules():
        kind = _kind(layer)
        if kind is None:
            continue
        if name not in cut or not isinstance(cut[name], type(layer)):
            raise LayersDiffer(f"layer {name!r} ({type(layer).__name__}) is missing from the pruned network")
        rows.append(
            LayerRow(
                layer=name,
                kind=kind,
                dense_channels=_channels(layer),
                kept_channels=_channels(cut[name]),
                dense_params=_count(layer.parameters()),
                params=_count(cut[name].parameters()),
                dense_macs=macs_before.get(name, 0),
                macs=macs_after.get(name, 0),
                nonzero=_count_nonzero(cut[name].parameters()),
            )
        )
    return rows


def sizes(dense: nn.Module, pruned: nn.Module, example: Tensor, unstructured: bool) -> dict[str, float | int]:
    """Return parameters, multiply-adds and removed shares, under the names of a trial's record.

    Structured: parameters and multiply-adds of the cut network. ``unstructured``: ``params`` are the non-zero
    parameters, and ``macs`` those of the dense network, since zeros are multiplied as well.

    ``filter_sparsity``: filters of convolutions removed / filters of the dense network's convolutions.
    ``weight_sparsity``: 1 - non-zero weights of convolutions and linear layers / such weights of the dense network.
    """
    dense_macs = sum(layer_macs(dense, example).values())
    macs = sum(layer_macs(pruned, example).values())
    dense_params, params = _count(dense.parameters()), _count(pruned.parameters())
    if unstructured:
        params = _count_nonzero(pruned.parameters())
    dense_filters, filters = _filters(dense), _filters(pruned)
    dense_weights, weights = _count(_weights(dense)), _count_nonzero(_weights(pruned))
    return {
        "dense_params": dense_params,
        "params": params,
        "param_sparsity": _removed(params, dense_params),
        "compression_ratio": dense_params / params if params else float("inf"),
        "dense_macs": dense_macs,
        "macs": macs,
        "mac_sparsity": _removed(macs, dense_macs),
        "filter_sparsity": _removed(filters, dense_filters),
        "weight_sparsity": _removed(weights, dense_weights),
    }


def _removed(remaining: int, dense: int) -> float:
    return 1 - remaining / dense if dense else 0.0


def _kind(layer: nn.Module) -> str | None:
    if isinstance(layer, Convolution):
        depthwise = layer.in_channels == layer.out_channels == layer.groups > 1
        return "depthwise_conv" if depthwise else "conv"
    if isinstance(layer, nn.Linear):
        return "linear"
    return "norm" if isinstance(layer, _NORMS) else None


def _channels(layer: nn.Module) -> int:
    for attribute in ("out_channels", "out_features", "num_features", "num_channels"):
        if hasattr(layer, attribute):
            return int(getattr(layer, attribute))
    return int(layer.normalized_shape[-1])  # type: ignore[index]  # a LayerNorm


def _filters(model: nn.Module) -> int:
    return sum(m.out_channels for m in model.modules() if isinstance(m, Convolution))


def _weights(model: nn.Module) -> Iterable[Tensor]:
    weights = [m.weight for m in model.modules() if isinstance(m, Convolution | nn.Linear)]
    return {id(weight): weight for weight in weights}.values()


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _count_nonzero(tensors: Iterable[Tensor]) -> int:
    return sum(int(tensor.count_nonzero()) for tensor in tensors)
