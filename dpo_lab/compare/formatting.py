"""Numbers as text, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def known(row: Mapping[str, Any], key: str) -> float | None:
    """The number under `key`, None if it is missing or not finite."""
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def percent(share: float | int) -> str:
    """0.913 as '91 %', with a space that does not break."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%" if math.isfinite(share) else "?"


def measured(values: Mapping[str, Any], name: str, *, share: bool = False, sign: str = "") -> str:
    """A number with its standard error if that is known: '+2.40 ± 0.07', a share as '95 ± 1 %'; '' without a number."""
    value, error = known(values, name), known(values, f"{name}_se")
    if value is None:
        return ""
    digits, times = (0, 100) if share else (2, 1)
    text = f"{times * value:{sign}.{digits}f}"
    if error is not None:
        text += f" \N{PLUS-MINUS SIGN} {_error(times * error, digits)}"
    return f"{text} %" if share else text


def _error(error: float, digits: int) -> str:
    """An error that rounds to 0 and is not 0 is given as below the last digit: '<0.01'."""
    text, last = f"{error:.{digits}f}", 10**-digits
    return f"<{last}" if error > 0 and float(text) == 0 else text
