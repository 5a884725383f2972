"""MaskConvNet (submitted to ICLR 2020)."""

from orchestrator.methods.learned.mask_convnet.method import MaskConvNet

__all__ = ["MaskConvNet"]
