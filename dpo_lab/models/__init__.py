"""Policies: how to build and copy them."""

from dpo_lab.models import checkpoint, transformer
from dpo_lab.models.base import MODELS, ModelSpec

__all__ = ["MODELS", "ModelSpec", "checkpoint", "transformer"]
