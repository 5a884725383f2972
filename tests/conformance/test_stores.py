"""Every kind of store passes the conformance suite."""

from pathlib import Path

import pytest

from orchestrator.testing.stores import StoreSuite


class TestFolder(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> str:
        return str(tmp_path / "runs")

    @pytest.fixture
    def machines(self) -> list[dict[str, str]]:
        return [{}, {}]


class TestBucket(StoreSuite):
    @pytest.fixture
    def store(self, bucket_uri: str) -> str:
        return bucket_uri

    @pytest.fixture
    def machines(self, tmp_path: Path) -> list[dict[str, str]]:
        return [{"PRUNESWEEP_STORES": str(tmp_path / name)} for name in ("one", "two")]
