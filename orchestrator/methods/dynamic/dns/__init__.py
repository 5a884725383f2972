"""Dynamic network surgery (Guo et al. 2016)."""

from orchestrator.methods.dynamic.dns.method import DynamicNetworkSurgery

__all__ = ["DynamicNetworkSurgery"]
