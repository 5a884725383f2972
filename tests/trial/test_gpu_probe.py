"""Measuring a training's GPU memory and utilization in a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.data.batching import Split
from orchestrator.spec.failures import out_of_memory, reason_of
from orchestrator.spec.result import EpochRow
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.space.resolve import resolve
from orchestrator.trial import gpu_probe
from orchestrator.trial.context import Context

TRAINING_METHODS = ["sfp", "network_slimming", "mask_convnet", "gal", "dcp", "bar", "taylor_iterative"]


def spec(method: str = "l1_norm", batch_size: int = 64) -> gpu_probe.TrialSpec:
    return resolve(
        {
            "model": "convnet",
            "data": {"name": "digits", "size": 16},
            "method": method,
            "target": {"sparsity": 0.5},
            "baseline": {"batch_size": batch_size},
        }
    )


@pytest.mark.parametrize("method", ["l1_norm", *TRAINING_METHODS])
def test_every_kind_of_training_can_be_probed(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps an epoch, three epochs, on the CPU: the probe's training does not depend on the device."""
    monkeypatch.setattr(gpu_probe, "_STEPS", 2)
    rows: list[EpochRow] = []
    context = Context(spec(method, 32), Workspace(Store(tmp_path), "s"), lambda row, epochs: rows.append(row))
    gpu_probe._train(context, sparse=method != "l1_norm")
    assert [row.epoch for row in rows] == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_measured_without_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_probe.measure_load(spec(), Workspace(Store(tmp_path), "s"), sparse=False) is None


def test_without_kernels_the_utilization_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with the real profiler."""
    monkeypatch.setattr(gpu_probe, "_STEPS", 2)
    timer = gpu_probe._EpochTimer()
    gpu_probe._train(Context(spec(), Workspace(Store(tmp_path), "s"), timer.on_epoch), sparse=False)
    assert timer._seconds > 0
    assert timer.utilization is None


def test_few_images_of_a_streamed_set_leave_the_map_whole() -> None:
    images, rows = torch.zeros(9, 1, 2, 2, dtype=torch.uint8), torch.tensor([8, 3, 5])
    first = gpu_probe._first(Split(images, torch.tensor([1, 2, 3]), rows), 2)
    assert first.rows is not None
    assert (first.rows.tolist(), first.labels.tolist(), len(first.images)) == ([8, 3], [1, 2], 9)


def test_every_form_of_out_of_memory_is_recognised() -> None:
    message = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 10 GiB. See documentation"
    assert reason_of(torch.OutOfMemoryError(message)) == "OutOfMemory: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert (
        reason_of(RuntimeError("CUDA error: out of memory\nkernel errors")) == "OutOfMemory: CUDA error: out of memory"
    )
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    within = ValueError("no scores")
    within.__cause__ = torch.OutOfMemoryError(message)
    assert out_of_memory(within)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("the paper says: CUDA out of memory"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_larger_batch_takes_more_memory_and_keeps_the_gpu_busier(tmp_path: Path) -> None:
    workspace = Workspace(Store(tmp_path), "s", device="cuda")
    small = gpu_probe.measure_load(spec(batch_size=8), workspace, sparse=False)
    large = gpu_probe.measure_load(spec(batch_size=512), workspace, sparse=False)
    sparse = gpu_probe.measure_load(spec("network_slimming", 512), workspace, sparse=True)
    for load in (small, large, sparse):
        assert load is not None
        assert load[1] is not None
        assert 0 < load[1] <= 1
        assert 1 << 20 < load[0] < torch.cuda.mem_get_info()[1]
    assert small is not None
    assert large is not None
    assert large[0] > small[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_that_does_not_fit_takes_the_whole_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        torch.cuda.empty_cache()
        load = gpu_probe.measure_load(
            spec(batch_size=512), Workspace(Store(tmp_path), "s", device="cuda"), sparse=False
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert load == (torch.cuda.mem_get_info()[1], None)
