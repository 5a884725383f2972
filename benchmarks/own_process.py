"""Run one side of a benchmark in a process and a folder of its own, without caches of another side."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any


def in_a_process(script: str, side: str, **arguments: int) -> dict[str, Any]:
    """Call a script again with `--side`, its other arguments and `--out`; return the JSON that it printed last."""
    given = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, script, "--side", side, *given, "--out", folder]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed ({' '.join(given)}):\n{done.stdout}{done.stderr}")
    output: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return output
