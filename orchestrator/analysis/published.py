"""Map each published number to a column of ``trials.parquet`` and to the trials that it is compared with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.analysis.papers import PublishedTable, paper

Unit = Literal["plain", "percent", "percent_left", "factor_left"]
"""Published form of a share x: 100 x, 100 (1 - x), 1 / (1 - x); or ``plain``, the number as it is."""


@dataclass(frozen=True)
class Cell:
    """One published number, and the conditions on the trials that match it."""

    row: str
    column: str
    published: float
    metric: str
    """The column of ``trials.parquet`` that it is compared with."""
    unit: Unit
    model: str
    data: str = ""
    method: str = ""
    """The method's name in search spaces; empty if any trial matches, as for a result of the dense network."""
    plan: str = ""
    """The paper's name for the kept widths, e.g. A."""
    near: Mapping[str, float] | None = None
    """Columns with the values that they must be near to; not used for a trial that names the plan."""
    exact: Mapping[str, Any] | None = None
    """Columns with the values that they must have."""
    sd: float | None = None
    group: str = ""
    """Name of the group of rows whose order is meaningful."""
    flags: tuple[str, ...] = ()


def cells(table: PublishedTable) -> list[Cell]:
    """Return every published number that trials can be compared with; none for a table of layers or of recipes."""
    read = _READERS.get((table.paper, table.number))
    return [cell for row in table.rows for cell in read(row)] if read else []


def reason_for_no_cells(table: PublishedTable) -> str:
    """Return the reason why a table has no cells."""
    if not table.rows:
        return "no row of the table survives"
    if any("layer" in row for row in table.rows):
        return "a table of layers: see layers.parquet"
    return "a table of recipes or sizes: no result to compare"


def _functionality(data: str) -> Callable[[Mapping[str, Any]], Iterator[Cell]]:
    def read(row: Mapping[str, Any]) -> Iterator[Cell]:
        network, configuration = row["network"], row["configuration"]
        common: dict[str, Any] = {"row": f"{network} {configuration}", "model": network, "data": data}
        common |= {"group": network, "flags": row["flags"]}
        if row.get("is_baseline"):
            yield Cell(
                column="retrain_accuracy_pct",
                published=row["retrain_accuracy_pct"],
                metric="dense_accuracy",
                unit="percent",
                **common,
            )
            return
        common["plan"] = re.sub("prune|-L1", "", configuration).strip()
        common["method"] = "l1_norm" if configuration.endswith("L1") else "functionality"
        common["near"] = {"filter_sparsity": row["pruning_rate_pct"] / 100}
        yield from _columns(row, common, _FUNCTIONALITY)

    return read


_FUNCTIONALITY: dict[str, tuple[str, Unit]] = {
    "prune_accuracy_pct": ("pruned_accuracy", "percent"),
    "retrain_accuracy_pct": ("accuracy", "percent"),
    "flops_reduction_pct": ("mac_sparsity", "percent"),
}


def _pfec(row: Mapping[str, Any]) -> Iterator[Cell]:
    """Read paper 001, table 2, whose columns are the schedules of one pruned network."""
    plan = row["pruned_model"].rpartition("-")[2]
    sizes = [s for s in paper("001")["pfec_sizes"]["rows"] if (s["model"], s["variant"]) == (row["model"], plan)]
    common: dict[str, Any] = {"model": row["model"], "data": row["dataset"], "group": row["pruned_model"]}
    common |= {"flags": row["flags"]}
    if "unpruned" in row:
        yield Cell(row["model"], "unpruned", row["unpruned"], "dense_accuracy", "percent", **common)
    near = {"mac_sparsity": sizes[0]["flops_pruned_pct"] / 100} if sizes else None
    for column, schedule in (("fine_tuned", "fine_tune"), ("scratch_E", "scratch_e"), ("scratch_B", "scratch_b")):
        yield Cell(
            row=row["pruned_model"],
            column=column,
            published=row[column],
            metric="accuracy",
            unit="percent",
            method="l1_norm",
            plan=plan,
            near=near,
            exact={"retrain": schedule},
            **common,
        )


def _same_size(row: Mapping[str, Any]) -> Iterator[Cell]:
    """Read paper 001, tables 3, 4, 10, which are compared with l1-norm and CLR at the same number of parameters."""
    name = row["name"]
    if "baseline" in name:
        return
    model = "ResNet-34" if "ResNet-34" in name else "ResNet-50"
    size = float(row.get("nptm_match_params") or _count(row["params"]))
    common: dict[str, Any] = {"row": f"{name} ({row['params']})", "model": model, "data": "ImageNet"}
    common |= {"method": "l1_norm", "near": {"params": size}, "exact": {"retrain": "clr"}}
    common |= {"group": model, "flags": (*row["flags"], "ours is l1_norm with CLR at the same size")}
    yield from _columns(row, common, {"top1": ("accuracy", "percent"), "top5": ("top5_accuracy", "percent")})


def _hrank(row: Mapping[str, Any]) -> Iterator[Cell]:
    removed = re.search(r"-([0-9.]+)%", row["params"])
    near = {"param_sparsity": float(removed[1]) / 100} if removed else None
    common: dict[str, Any] = {"row": f"{row['model']} {row['params']}", "model": row["model"], "data": "CIFAR-10"}
    common |= {"method": "hrank", "near": near, "flags": row["flags"]}
    yield from _columns(row, common, {"acc": ("accuracy", "percent")})


def _mlprune(row: Mapping[str, Any]) -> Iterator[Cell]:
    common: dict[str, Any] = {"row": f"{row['architecture']} {row['method']}", "model": row["architecture"]}
    common |= {"data": _DATA_OF.get(row["architecture"], ""), "method": _method(row["method"])}
    common |= {"near": {"weight_sparsity": 1 - row["cr_percent_kept"] / 100}}
    common |= {"group": row["architecture"], "flags": row["flags"]}
    yield from _columns(row, common, _MLPRUNE)


_MLPRUNE: dict[str, tuple[str, Unit]] = {
    "original_error_pct": ("dense_accuracy", "percent_left"),
    "final_error_pct": ("accuracy", "percent_left"),
    "delta_error_pct": ("accuracy_drop", "percent"),
    "cr_percent_kept": ("weight_sparsity", "percent_left"),
}


def _autoprune(row: Mapping[str, Any]) -> Iterator[Cell]:
    after = "pruned_accuracy" if "before retraining" in row["method"] else "accuracy"
    common: dict[str, Any] = {"row": f"{row['model']} {row['method']}", "model": row["model"]}
    common |= {"data": _DATA_OF.get(row["model"], ""), "method": _method(row["method"])}
    common |= {"near": {"weight_sparsity": 1 - row["kept_pct"] / 100}}
    common |= {"group": row["model"], "flags": row["flags"]}
    yield from _columns(
        row,
        common,
        {
            "error_before_pct": ("dense_accuracy", "percent_left"),
            "error_after_pct": (after, "percent_left"),
            "cr_factor": ("weight_sparsity", "factor_left"),
        },
    )


def _autoprune_neurons(row: Mapping[str, Any]) -> Iterator[Cell]:
    common: dict[str, Any] = {"row": row["model"], "model": row["model"], "data": _DATA_OF.get(row["model"], "")}
    common |= {"method": "autoprune", "near": {"mac_sparsity": 1 - row["flops_kept_pct"] / 100}, "flags": row["flags"]}
    yield from _columns(row, common, {"flops_kept_pct": ("mac_sparsity", "percent_left")})


def _mobilenet(row: Mapping[str, Any]) -> Iterator[Cell]:
    if row["top1"] is None:
        return
    common: dict[str, Any] = {"row": f"{row['method']} {row['flops']}", "model": "MobileNetV2", "data": "ImageNet"}
    common |= {"method": _method(row["method"]), "near": {"macs": _count(row["flops"])}}
    common |= {"group": row["group"], "flags": row["flags"]}
    yield from _columns(row, common, {"top1": ("accuracy", "percent")})


def _mask_multipliers(row: Mapping[str, Any]) -> Iterator[Cell]:
    m, v = row["lambda_m_base"], row["lambda_v_base"]
    common: dict[str, Any] = {"row": f"λm {m}, λv {v}", "model": "VGG-19", "data": "CIFAR-10"}
    common |= {"method": "mask_convnet", "near": {"target_sparsity": 0.5}, "flags": row["flags"]}
    common |= {"exact": {"method.base_lambda_m": m, "method.base_lambda_v": v}}
    yield from _columns(
        row,
        common,
        {
            "accuracy_pct": ("accuracy", "percent"),
            "flop_sparsity_pct": ("mac_sparsity", "percent"),
            "param_sparsity_pct": ("param_sparsity", "percent"),
        },
    )


def _mask_latency(row: Mapping[str, Any]) -> Iterator[Cell]:
    target = row["target_flop_sparsity_pct"]
    common: dict[str, Any] = {"row": f"{row['model']} {target} %", "model": row["model"], "data": "CIFAR-10"}
    common |= {"group": row["model"], "flags": row["flags"]}
    if not target:
        sd = row["latency_std"]
        yield Cell(
            column="latency_ms", published=row["latency_ms"], metric="dense_latency_ms", unit="plain", sd=sd, **common
        )
        return
    common |= {"method": "mask_convnet", "near": {"target_sparsity": target / 100}}
    sds = {"actual_flop_sparsity_pct": row["actual_std"], "latency_ms": row["latency_std"]}
    yield from _columns(row, common, _MASK_LATENCY, sds)


_MASK_LATENCY: dict[str, tuple[str, Unit]] = {
    "actual_flop_sparsity_pct": ("mac_sparsity", "percent"),
    "latency_ms": ("latency_ms", "plain"),
    "speedup": ("latency_speedup", "plain"),
}

_READERS: dict[tuple[str, str], Callable[[Mapping[str, Any]], Iterator[Cell]]] = {
    ("000", "1"): _functionality("CIFAR-10"),
    ("000", "2"): _functionality("ImageNet-10"),
    ("001", "2"): _pfec,
    ("001", "3"): _same_size,
    ("001", "4"): _same_size,
    ("001", "7"): _hrank,
    ("001", "10"): _same_size,
    ("002", "1"): _mlprune,
    ("003", "1"): _autoprune_neurons,
    ("003", "3"): _mobilenet,
    ("003", "4"): _autoprune,
    ("004", "5"): _mask_multipliers,
    ("004", "6"): _mask_latency,
}

_METHODS = {
    "random": "random",
    "obd": "obd",
    "lwc": "lwc",
    "dns": "dns",
    "l-obs": "layer_obs",
    "mlprune": "mlprune",
    "autoprune": "autoprune",
    "sparse variational": "sparse_vd",
    "soft weight": "soft_weight_sharing",
}
_DATA_OF = {
    "LeNet-300-100": "MNIST",
    "LeNet-5": "MNIST",
    "Cifar-Net": "CIFAR-10",
    "VGG-like": "CIFAR-10",
    "AlexNet": "ImageNet",
    "ResNet-50": "ImageNet",
}


def _method(published: str) -> str:
    """Return the method's name in search spaces; the published name, which matches nothing, if it has none."""
    return next((name for start, name in _METHODS.items() if published.lower().startswith(start)), published)


def _columns(
    row: Mapping[str, Any],
    common: dict[str, Any],
    columns: Mapping[str, tuple[str, Unit]],
    sds: Mapping[str, float | None] | None = None,
) -> Iterator[Cell]:
    for column, (metric, unit) in columns.items():
        if row.get(column) is not None:
            sd = (sds or {}).get(column)
            yield Cell(column=column, published=float(row[column]), metric=metric, unit=unit, sd=sd, **common)


def _count(text: str) -> float:
    """Convert a count such as ``11.05M`` to a number."""
    return float(text[:-1]) * {"M": 1e6, "B": 1e9}[text[-1]]
