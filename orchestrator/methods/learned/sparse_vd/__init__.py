"""Sparse variational dropout (Molchanov et al. 2017)."""

from orchestrator.methods.learned.sparse_vd.method import SparseVariationalDropout

__all__ = ["SparseVariationalDropout"]
