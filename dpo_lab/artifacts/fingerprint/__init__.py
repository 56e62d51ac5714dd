"""What makes two computations the same: their settings, code and library versions, and how their machine rounds."""

from dpo_lab.artifacts.fingerprint.changes import as_file, describe_changes, describe_values
from dpo_lab.artifacts.fingerprint.code import Code, code_of, component_classes
from dpo_lab.artifacts.fingerprint.settings import (
    HOUSEKEEPING,
    ROUNDING,
    Scalar,
    decisive,
    flat,
    group_key,
    is_seed,
    scalar_settings,
)

__all__ = [
    "HOUSEKEEPING",
    "ROUNDING",
    "Code",
    "Scalar",
    "as_file",
    "code_of",
    "component_classes",
    "decisive",
    "describe_changes",
    "describe_values",
    "flat",
    "group_key",
    "is_seed",
    "scalar_settings",
]
