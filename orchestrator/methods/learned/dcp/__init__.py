"""DCP: discrimination-aware channel pruning (Zhuang et al. 2018)."""

from orchestrator.methods.learned.dcp.method import DCP

__all__ = ["DCP"]
