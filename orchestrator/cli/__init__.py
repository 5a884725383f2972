"""Provide the command line; bad input ends with one message and exit code 2."""

# ruff: noqa: I001 (the order of the imports is that of the commands in the help)

from __future__ import annotations

import os
import sys

from orchestrator.cli import sweeps, results, stores
from orchestrator.cli.app import app


def main() -> None:
    """Run the command line, with the current folder on the import path for the user's own modules."""
    sys.path.insert(0, os.getcwd())
    app()


__all__ = ["app", "main", "results", "stores", "sweeps"]
