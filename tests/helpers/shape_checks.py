"""Shapes and dtypes are enforced in tests: every function and dataclass of the package whose annotations name a tensor."""

from __future__ import annotations

from typing import Any

import jaxtyping

PACKAGES = ["dpo_lab", "experiments.throughput.benchmark"]
TENSORS = ("Tensor", "Float[", "Int[", "Bool[")
_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Check every module of these packages that is imported from now on.

    Functions without tensors are left to mypy: to check their calls as well took as long as the tests of losses and scores
    themselves (90 s instead of 49). So are functions within functions, which would be decorated anew at each call.
    """
    jaxtyping.jaxtyped = _where_tensors_are
    jaxtyping.install_import_hook(PACKAGES, "beartype.beartype")


def _where_tensors_are(**options: Any) -> Any:
    decorate = _jaxtyped(**options)

    def decorated(target: Any) -> Any:
        return decorate(target) if _names_tensors(target) else target

    return decorated


def _names_tensors(target: Any) -> bool:
    function = getattr(target, "fget", None) or getattr(target, "__func__", target)
    hints = getattr(function, "__annotations__", {}).values()
    within = "<locals>" in getattr(function, "__qualname__", "")
    return not within and any(part in str(hint) for hint in hints for part in TENSORS)
