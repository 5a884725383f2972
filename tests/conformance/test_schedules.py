"""Every retraining schedule of the table passes the conformance suite."""

from __future__ import annotations

import pytest

from orchestrator.retrain import SCHEDULES
from orchestrator.testing.schedules import ScheduleSuite


@pytest.mark.parametrize("schedule_name", SCHEDULES.names())
class TestSchedules(ScheduleSuite):
    pass
