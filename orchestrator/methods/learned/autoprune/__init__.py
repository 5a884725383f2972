"""AutoPrune (Xiao et al. 2019)."""

from orchestrator.methods.learned.autoprune.method import AutoPrune

__all__ = ["AutoPrune"]
