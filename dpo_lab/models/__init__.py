"""Policies: how to build and copy them."""

from dpo_lab.models import checkpoint, presets, pretrained, transformer
from dpo_lab.models.base import MODELS, ModelSpec, Opened

__all__ = ["MODELS", "ModelSpec", "Opened", "checkpoint", "presets", "pretrained", "transformer"]
