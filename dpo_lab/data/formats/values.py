"""Checked values of a row's fields: text, numbers, truth values. Anything else is a BadRowError that says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

LARGEST = 3.4028234663852886e38
"""The largest float32, which numbers become."""

SHORT = Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 60
SHORT.maxlist = 20

TRUE, FALSE = (1, "true", "1", "yes"), (0, "false", "0", "no")


class BadRowError(ValueError):
    """A row that cannot be read. The message says what is wrong, not yet where."""


def short(value: Any) -> str:
    """The value as a message shows it, abbreviated."""
    return SHORT.repr(value)


def required(fields: Mapping[str, Any], name: str) -> Any:
    """The field's value. Raises BadRowError where it is missing or null."""
    if fields.get(name) is None:
        what = "the field '{}' is null" if name in fields else "no '{}' field"
        raise BadRowError(f"{what.format(name)}; found {short(sorted(fields))}")
    return fields[name]


def text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRowError(f"'{name}' must be a string, found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"'{name}' holds half a character (a lone surrogate, \\ud800 to \\udfff)") from error
    return value


def number(value: Any, name: str) -> float:
    if not is_number(value, -LARGEST, LARGEST):
        raise BadRowError(f"'{name}' must be a number that is finite in float32, found {short(value)}")
    return float(value)


def is_number(value: Any, lowest: float, highest: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def numbers(value: Any, name: str, count: int | None = None) -> tuple[float, ...]:
    """A list of `count` numbers, or of at least one."""
    wanted = "of numbers, at least one" if count is None else f"of {count}, one for each completion"
    if not isinstance(value, list) or len(value) != (count or max(len(value), 1)):
        raise BadRowError(f"'{name}' must be a list {wanted}, found {short(value)}")
    return tuple(number(item, f"{name}[{i}]") for i, item in enumerate(value))


def truth(value: Any, name: str) -> bool:
    """A truth value: true or false, 1 or 0, or a word for them."""
    normalised = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(normalised, bool | int | float | str) or normalised not in (*TRUE, *FALSE):
        raise BadRowError(f"'{name}' must be true or false, found {short(value)}")
    return normalised in TRUE


def beats(first: Sequence[float], second: Sequence[float]) -> float:
    """P(a rating of the first completion is higher than one of the second), equal ones counting one half."""
    if not first or not second:
        raise BadRowError("a completion without ratings")
    won = sum((a > b) + 0.5 * (a == b) for a in first for b in second)
    return won / (len(first) * len(second))
