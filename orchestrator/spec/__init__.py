"""The values everything else is made of: search spaces, trial specifications, results, workspaces."""

from orchestrator.spec.axes import Axis, Range
from orchestrator.spec.errors import SpecError
from orchestrator.spec.result import EpochRow, LayerRow, TrialResult
from orchestrator.spec.search_space import Arm, SearchSpace
from orchestrator.spec.trial import Baseline, Choice, Retrain, Target, TrialSpec

__all__ = [
    "Arm",
    "Axis",
    "Baseline",
    "Choice",
    "EpochRow",
    "LayerRow",
    "Range",
    "Retrain",
    "SearchSpace",
    "SpecError",
    "Target",
    "TrialResult",
    "TrialSpec",
]
