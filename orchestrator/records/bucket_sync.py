"""Records of sweeps in a bucket, downloaded before a command reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths


def refresh_with_warm_starts(store: Store, sweep_folder: Path, warm_starts: Iterable[str] | None = None) -> None:
    """Bring the records of a sweep, and of the sweeps that its search starts from, up to date with the bucket.

    Args:
        store: the store.
        sweep_folder: the sweep's folder in it.
        warm_starts: names of the sweeps it starts from; None: those that its search space names.
    """
    store.refresh(sweep_folder)
    path = SweepPaths(sweep_folder).searchspace
    if store.bucket is None or (warm_starts is None and not path.exists()):
        return
    for name in SearchSpace.load(path).search.warm_start if warm_starts is None else warm_starts:
        store.refresh(sweep_folder.parent / name)
