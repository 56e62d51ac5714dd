"""Optimisers, one file each, all PyTorch's own."""

from dpo_lab.training.optimizers.base import OPTIMIZERS, OptimizerSpec

__all__ = ["OPTIMIZERS", "OptimizerSpec"]
