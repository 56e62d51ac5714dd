"""Intervals that settings must lie in."""

from __future__ import annotations

import math
from collections.abc import Mapping


def check_ranges(settings: object, ranges: Mapping[str, str]) -> None:
    """Raises ValueError for a setting of a loss outside of its interval, such as "(0, inf)" or "[0, 1): why"."""
    for name, text in ranges.items():
        interval, _, reason = text.partition(":")
        value, (low, high) = getattr(settings, name), map(float, interval[1:-1].split(","))
        above = low < value if interval[0] == "(" else low <= value
        below = value < high if interval[-1] == ")" else value <= high
        if not (above and below):
            bound = f"{'>' if interval[0] == '(' else '>='} {low:g} and finite"
            where = f"in {interval}" if math.isfinite(high) else bound
            raise ValueError(f"loss.{name} must be {where}, got {value}" + (f":{reason}" if reason else ""))
