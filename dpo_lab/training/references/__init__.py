"""References, one file each: what the policy is compared with."""

from dpo_lab.training.references.base import REFERENCES, LiveReference, Reference, ReferenceSpec

__all__ = ["REFERENCES", "LiveReference", "Reference", "ReferenceSpec"]
