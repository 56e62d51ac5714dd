"""References: frozen copy, cached scores, none."""

from dpo_lab.references.base import REFERENCES, ReferenceSpec

__all__ = ["REFERENCES", "ReferenceSpec"]
