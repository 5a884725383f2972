"""Optuna's study as a file that its dashboard reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend


class Journal(BaseJournalBackend):
    """A journal in the format of Optuna's `JournalFileBackend`, for one process that writes.

    Optuna's own locks its file, reads it and waits for the disk at every entry, ten times a trial. This one is a view
    of the records: where its file was cut off, it is made anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if not text.endswith("\n") and text:
            raise ValueError(f"{path}: the last line was cut off")
        self._lines = text.splitlines()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._lines += lines
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._lines[log_number_from:])
