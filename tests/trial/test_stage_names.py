"""Every stage that a plan names has a function that computes it."""

from orchestrator.spec.stages import STAGE_NAMES
from orchestrator.trial.run import _STAGES


def test_every_stage_can_be_computed() -> None:
    assert set(_STAGES) == set(STAGE_NAMES)
