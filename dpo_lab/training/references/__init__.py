"""References: frozen copy, cached scores, none, and copies that follow the policy."""

from dpo_lab.training.references.base import REFERENCES, Reference, ReferenceSpec

__all__ = ["REFERENCES", "Reference", "ReferenceSpec"]
