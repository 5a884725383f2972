"""Measure the latency of one finished network in this process."""

from __future__ import annotations

from pathlib import Path

from orchestrator.records.records import Latency


def measure(folder: Path, device: str, threads: int) -> Latency:
    """Return the latency of a finished trial's network on this device, which nothing else may use meanwhile."""
    import platform
    from datetime import UTC, datetime

    from orchestrator.trial.latency import BATCH_SIZE, measure_saved
    from orchestrator.trial.provenance import device_name

    return Latency(
        **measure_saved(folder, device, threads),
        device=device_name(device),
        host=platform.node(),
        batch_size=BATCH_SIZE,
        measured=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
