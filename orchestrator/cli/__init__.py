"""The command line; bad input is one message and exit code 2."""

# ruff: noqa: I001 (the order of the imports is that of the commands in the help)

from __future__ import annotations

import os
import sys

from orchestrator.cli import sweeps, results, stores
from orchestrator.cli.app import app


def main() -> None:
    """Entry point; the user's own modules are found in the current folder."""
    sys.path.insert(0, os.getcwd())
    app()


__all__ = ["app", "main", "results", "stores", "sweeps"]
