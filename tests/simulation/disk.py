"""Inject faults into the file system calls of simulated processes: kills, torn writes, power cuts, a full disk.

The files are real and lie in memory (tmpfs). A process that is killed during an fsync leaves half of the data; a node
that loses power loses the data that were not flushed.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from world import Killed, Process, World


class Disk:
    """The file system calls of a world's processes on files below a folder."""

    def __init__(self, world: World, root: Path) -> None:
        self._world, self._root = world, str(root)
        self.full = False
        """Whether every write fails with ENOSPC."""
        self._flushed: set[int] = set()
        """Inodes whose data were flushed."""
        self._volatile: dict[str, str] = {}
        """Path -> node, of files that were renamed before their data were flushed."""

    def crash(self, node: str) -> None:
        """Cut the power of a node: truncate files that its processes did not flush, each with a chance of one half."""
        for path, where in list(self._volatile.items()):
            if where == node and os.path.isfile(path) and self._world.chance(0.5):
                os.truncate(path, os.path.getsize(path) // 2)
                self._world.note(f"{os.path.relpath(path, self._root)} is torn")
            if where == node:
                del self._volatile[path]

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Route the system calls of the world's processes through this disk."""
        with pytest.MonkeyPatch.context() as patch:
            real = {name: getattr(os, name) for name in ("replace", "rename", "link", "fsync", "unlink")}
            real_open = builtins.open

            def opened(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
                process = self._caller(file)
                if process is None or not set(mode) & set("wxa+"):
                    return real_open(file, mode, *more, **options)
                if set(mode) & set("wx"):
                    self._refuse_when_full()
                handle = real_open(file, mode, *more, **options)
                if self._world.system_call():
                    handle.close()
                    raise Killed(process.name)
                if set(mode) & set("wx"):
                    self._flushed.discard(os.fstat(handle.fileno()).st_ino)
                return handle

            def named(name: str) -> Any:
                def call(source: Any, target: Any, **options: Any) -> None:
                    process = self._caller(target)
                    if process is None:
                        return real[name](source, target, **options)
                    self._refuse_when_full()
                    killed = self._world.system_call()
                    # The kill comes before or after the call, which itself is atomic.
                    if killed and self._world.chance(0.5):
                        raise Killed(process.name)
                    self._note_unflushed(str(source), str(target), process.node)
                    real[name](source, target, **options)
                    if killed:
                        raise Killed(process.name)
                    return None

                return call

            def fsync(descriptor: int) -> None:
                process = self._caller(None)
                if process is None:
                    return real["fsync"](descriptor)
                self._refuse_when_full()
                facts = os.fstat(descriptor)
                if self._world.system_call():
                    if os.path.isfile(f"/proc/self/fd/{descriptor}"):
                        os.truncate(f"/proc/self/fd/{descriptor}", facts.st_size // 2)
                    raise Killed(process.name)
                self._flushed.add(facts.st_ino)
                return None

            def unlink(path: Any, **options: Any) -> None:
                process = self._caller(path)
                if process is not None and self._world.system_call():
                    raise Killed(process.name)
                real["unlink"](path, **options)

            for name in ("replace", "rename", "link"):
                patch.setattr(os, name, named(name))
            patch.setattr(os, "fsync", fsync)
            patch.setattr(os, "unlink", unlink)
            patch.setattr(builtins, "open", opened)
            patch.setattr(io, "open", opened)
            yield

    def _caller(self, path: Any) -> Process | None:
        """Return the calling process; None for the simulation itself, and for files elsewhere."""
        if isinstance(path, int) or (path is not None and not str(path).startswith(self._root)):
            return None
        return self._world.current

    def _refuse_when_full(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _note_unflushed(self, source: str, target: str, node: str) -> None:
        for folder, _, files in os.walk(source) if os.path.isdir(source) else [("", [], [source])]:
            for name in files:
                path = os.path.join(folder, name)
                moved = target + path[len(source) :]
                if os.stat(path).st_ino in self._flushed:
                    self._volatile.pop(moved, None)
                else:
                    self._volatile[moved] = node
