"""Channel ids with a union-find over them: the channels that must be removed together, and those that never may."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class ChannelIds:
    """Channel ids with a union-find over them: tied ids must be removed together, pinned ids never."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._pinned: set[int] = set()

    def new(self, count: int) -> Ids:
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def new_pinned(self, count: int) -> Ids:
        ids = self.new(count)
        self.pin(ids)
        return ids

    def tie(self, ids: Ids, others: Ids) -> None:
        """Tie ids pairwise."""
        for first, second in zip(ids.tolist(), others.tolist(), strict=True):
            a, b = self._root(first), self._root(second)
            if a != b:
                self._parents[max(a, b)] = min(a, b)

    def tie_together(self, ids: Ids) -> None:
        self.tie(ids[1:], np.repeat(ids[:1], max(len(ids) - 1, 0)))

    def pin(self, ids: Ids) -> None:
        self._pinned.update(ids.tolist())

    def roots(self, ids: Ids) -> list[int]:
        """Return for each id the smallest id it is tied to."""
        return [self._root(i) for i in ids.tolist()]

    def pinned(self) -> set[int]:
        """Return the roots of all pinned ids."""
        return {self._root(i) for i in self._pinned}

    def _root(self, i: int) -> int:
        parents = self._parents
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i
