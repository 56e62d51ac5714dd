"""References, one file each: what the policy is compared with."""

from dpo_lab.training.references.base import REFERENCES, Reference, ReferenceSpec

__all__ = ["REFERENCES", "Reference", "ReferenceSpec"]
