"""The records of truth of a sweep, and the views made from them."""

from orchestrator.records.records import (
    DamagedRecord,
    Latency,
    forget,
    read_latency,
    read_result,
    read_results,
    recorded_ids,
    write_latency,
    write_result,
)

__all__ = [
    "DamagedRecord",
    "Latency",
    "forget",
    "read_latency",
    "read_result",
    "read_results",
    "recorded_ids",
    "write_latency",
    "write_result",
]
