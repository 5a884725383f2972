"""Provenance of a trial: device, package versions, commit."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def device_name(device: str) -> str:
    """Return the model name of the GPU, or of the processor for other devices."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(torch.device(device)))
    return _processor()


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def commit() -> str:
    """Return the commit of the package's checkout; an empty string if there is no checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that may change a result."""
    installed = {"python": platform.python_version()}
    for package in ("prunesweep", "torch", "torchvision", "torch-pruning", "ray", "mlflow"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
