"""What makes two computations the same: settings, code, versions of libraries, and the machine's way of rounding."""

from dpo_lab.artifacts.identity.changes import as_file, changed, differences, flat
from dpo_lab.artifacts.identity.code import Code, code_of, components
from dpo_lab.artifacts.identity.settings import HOUSEKEEPING, ROUNDING, decisive, group_key, is_seed

__all__ = [
    "HOUSEKEEPING",
    "ROUNDING",
    "Code",
    "as_file",
    "changed",
    "code_of",
    "components",
    "decisive",
    "differences",
    "flat",
    "group_key",
    "is_seed",
]
