"""Attention within a row that holds several prompts, each followed by its candidates: whatever model asks for it.

A model is run on the row as if it were one text; inside `attending_among` its fused attention is replaced. No mask of the row's
square exists: PyTorch's own kernels are called for what is seen, and for nothing else.
"""

from dpo_lab.scoring.attention.among import again, attending_among
from dpo_lab.scoring.attention.trees import Tree, Trees

__all__ = ["Tree", "Trees", "again", "attending_among"]
