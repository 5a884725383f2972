"""Every stopper of the table keeps the suite's promises."""

import pytest

from orchestrator.sweep.stopping import STOPPERS
from orchestrator.testing.stoppers import StopperSuite

SECTIONS = {
    "moasha": {"objectives": {"accuracy": "max", "macs": "min"}},
    "constraint": {"constraints": {"macs": "<= 6000"}},
}


@pytest.mark.parametrize("stopper_name", STOPPERS.names())
class TestStoppers(StopperSuite):
    @pytest.fixture(autouse=True)
    def _sections(self, stopper_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "sections", SECTIONS.get(stopper_name, {}))
