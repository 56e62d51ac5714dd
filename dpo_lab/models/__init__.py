"""Policies: how to build and copy them."""

from dpo_lab.models.base import MODELS, ModelSpec, Opened

__all__ = ["MODELS", "ModelSpec", "Opened"]
