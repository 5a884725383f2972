"""The names of the stages whose outputs trials share."""

from __future__ import annotations

from typing import Literal, get_args

StageName = Literal["baseline", "importance", "sparse_training", "step"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
