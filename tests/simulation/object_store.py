"""A bucket in memory with the interface of fsspec that loses requests and replies; objects are replaced atomically."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from world import Killed, World


@dataclass(frozen=True)
class Object:
    data: bytes
    modified: float


class ObjectStore:
    """The file system that `Bucket` uses in place of s3fs; it has the world's clock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.objects: dict[str, Object] = {}
        self.away = 0.0
        """Share of the requests that fail, half of them after they took effect."""

    def pipe_file(self, key: str, data: bytes, mode: str = "overwrite") -> None:
        after = self._request()
        if mode == "create" and key in self.objects:
            raise FileExistsError(key)
        self.objects[key] = Object(data, self._world.now)
        after()

    def put_file(self, path: str, key: str) -> None:
        after = self._request()
        self.objects[key] = Object(Path(path).read_bytes(), self._world.now)
        after()

    def cat_file(self, key: str) -> bytes:
        self._request()
        return self._get(key).data

    def info(self, key: str) -> dict[str, Any]:
        self._request()
        return self._facts(key)

    def exists(self, key: str) -> bool:
        self._request()
        return key in self.objects

    def rm_file(self, key: str) -> None:
        after = self._request()
        self._get(key)
        del self.objects[key]
        after()

    def find(self, key: str, detail: bool = True, prefix: str = "") -> dict[str, dict[str, Any]]:
        self._request()
        start = f"{key}/{prefix}"
        return {name: self._facts(name) for name in sorted(self.objects) if name.startswith(start)}

    def ls(self, key: str, detail: bool = True) -> list[dict[str, Any]]:
        self._request()
        inner = {name[len(key) + 1 :].partition("/") for name in self.objects if name.startswith(f"{key}/")}
        return [
            {"name": f"{key}/{head}", "type": "directory" if slash else "file"}
            for head, slash in sorted({(head, slash) for head, slash, _ in inner})
        ]

    def get(self, keys: list[str], paths: list[str]) -> None:
        self._request()
        for key, path in zip(keys, paths, strict=True):
            Path(path).write_bytes(self._get(key).data)

    def _get(self, key: str) -> Object:
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def _facts(self, key: str) -> dict[str, Any]:
        found = self._get(key)
        return {"size": len(found.data), "LastModified": datetime.fromtimestamp(found.modified, UTC)}

    def _request(self) -> Any:
        """Inject a kill or a failure: here, before the request takes effect, or in the returned function, after it."""
        process = self._world.current
        killed = self._world.system_call()
        before = self._world.chance(0.5)
        lost = process is not None and self._world.chance(self.away)
        if before:
            self._end(killed, lost)
        return (lambda: None) if before else (lambda: self._end(killed, lost))

    def _end(self, killed: bool, lost: bool) -> None:
        if killed:
            raise Killed("in a request of the bucket")
        if lost:
            raise ConnectionError("the bucket does not answer")
