"""References: frozen copy, cached scores, none, and copies that follow the policy."""

from dpo_lab.training.references.base import REFERENCES, LiveReference, Reference, ReferenceSpec

__all__ = ["REFERENCES", "LiveReference", "Reference", "ReferenceSpec"]
