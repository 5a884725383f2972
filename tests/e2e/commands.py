"""What tests of whole sweeps run: the command line as a user has it, and the check of what a sweep leaves behind."""

import os
import sys
from pathlib import Path

CONTRACT = (
    Path(os.environ.get("PRUNESWEEP_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "checks/contract.py"
)
"""Holds a finished sweep against the public contract; may be absent."""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *words]
