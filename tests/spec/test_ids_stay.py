"""Every shipped search space plans to the trials, points and stages that release 0.1.0 planned.

`tests/assets/ids.json` holds digests of what 0.1.0 gave. Run as a script, this file prints them for the package that is
imported: the way to look at a difference, and to write the file again after an announced change of ids.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import SearchSpace, plan

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "tests" / "assets"
PINNED = ASSETS / "ids.json"
SHIPPED = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "searchspaces").rglob("*.yaml"))}
MADE = {path.name: path for path in sorted((ASSETS / "spaces").glob("*.yaml"))}
ONE_ARM = {"arms": ["taylor"], "axes.target.sparsity": {"low": 0.2, "high": 0.8}, "seed": [0, 1]}
SEARCHES: dict[str, dict[str, Any]] = {
    "random": {"search": {"name": "random", "trials": 12, "seed": 3}},
    "qmc": {"search": {"name": "qmc", "trials": 12, "seed": 3}},
    "sobol": {**ONE_ARM, "search": {"name": "sobol", "blocks": 4, "seed": 3}},
    "morris": {**ONE_ARM, "search": {"name": "morris", "trajectories": 4, "seed": 3}},
}
"""Settings that make one search space plan by every search that knows its points beforehand."""
CASES: dict[str, tuple[Path, dict[str, Any]]] = {
    **{name: (path, {}) for name, path in (SHIPPED | MADE).items()},
    **{f"every_axis.yaml by {search}": (MADE["every_axis.yaml"], given) for search, given in SEARCHES.items()},
}


def user_files(folder: Path) -> None:
    """Stand-ins for the image sets that lie in the user's folder; ids depend on their names, sizes and bytes."""
    for split in ("train", "val"):
        (folder / "imagenet10" / split / "tench").mkdir(parents=True)
        (folder / "imagenet10" / split / "tench" / "0.png").write_bytes(b"an image")
    for name in ("mnist", "cifar10"):
        (folder / name).mkdir()
        for split in ("train", "test"):
            (folder / name / f"{split}.parquet").write_bytes(b"images")


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def planned_ids(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Digests of what a search space plans: trial ids in order, arms with points, and the keys of each shared stage."""
    planned = plan(SearchSpace.load(path, settings))
    stages: dict[str, list[str]] = {}
    for stage in planned.stages:
        stages.setdefault(stage.name, []).append(stage.key)
    trial_ids = [trial.trial_id for trial in planned.trials]
    points = [[trial.arm, dict(trial.point)] for trial in planned.trials]
    return {
        "trials": len(trial_ids),
        "repeated": planned.repeated,
        "trial_ids": digest(trial_ids),
        "points": digest(points),
        "stages": {name: [len(keys), digest(sorted(keys))] for name, keys in sorted(stages.items())},
    }


@pytest.fixture(autouse=True, scope="module")
def in_user_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("user")
    user_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def test_every_shipped_space_is_pinned() -> None:
    assert sorted(json.loads(PINNED.read_text())) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_ids_and_stage_keys_are_those_of_the_first_release(case: str) -> None:
    assert planned_ids(*CASES[case]) == json.loads(PINNED.read_text())[case]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(made):
        user_files(Path(made))
        print(json.dumps({case: planned_ids(*given) for case, given in CASES.items()}, indent=1))
