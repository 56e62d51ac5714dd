"""Differences between two recorded states (settings, code, versions), as phrases for the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MOST_NAMED = 4


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each value that is not the same, by its dotted name."""
    one, other = dict(flat(then)), dict(flat(now))
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [f"{name}: {_short(one.get(name))} then, {_short(other.get(name))} now" for name in names]


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for the code (`code`: a digest for each module, or one for all), and one for everything else that differs."""
    others = differences(*({name: value for name, value in each.items() if name != "code"} for each in (then, now)))
    before, after = then.get("code"), now.get("code")
    if before == after:
        return others
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return [f"code: {_short(before)} then, {_short(after)} now", *others]
    modules = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    more = f" and {len(modules) - MOST_NAMED} more" if len(modules) > MOST_NAMED else ""
    return [f"{', '.join(map(as_file, modules[:MOST_NAMED]))}{more} changed", *others]


def as_file(module: str) -> str:
    """models/transformer.py for dpo_lab.models.transformer; a function's name stays behind it."""
    name, _, function = module.partition(":")
    path = name.removeprefix("dpo_lab.").replace(".", "/") + ".py"
    return f"{path} ({function})" if function else path


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    return str(value) if len(str(value)) <= 40 else f"{str(value)[:12]}..."
