"""What changed between two recorded states (settings, code, versions), in words for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_lab.artifacts.fingerprint.settings import flat

MOST_NAMED = 4


def describe_values(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each value that changed, under its dotted name."""
    before, after = dict(flat(then)), dict(flat(now))
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return [f"{name}: {_short(before.get(name))} then, {_short(after.get(name))} now" for name in names]


def describe_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for the code (under `code`: a digest for each module, or one for all), then one for each other value."""
    values = describe_values(*({name: value for name, value in state.items() if name != "code"} for state in (then, now)))
    before, after = then.get("code"), now.get("code")
    if before == after:
        return values
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return [f"code: {_short(before)} then, {_short(after)} now", *values]
    modules = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    more = f" and {len(modules) - MOST_NAMED} more" if len(modules) > MOST_NAMED else ""
    return [f"{', '.join(map(as_file, modules[:MOST_NAMED]))}{more} changed", *values]


def as_file(module: str) -> str:
    """The file of a module: models/transformer.py for dpo_lab.models.transformer; a function's name stays behind it."""
    name, _, function = module.partition(":")
    path = name.removeprefix("dpo_lab.").replace(".", "/") + ".py"
    return f"{path} ({function})" if function else path


def _short(value: Any) -> str:
    return str(value) if len(str(value)) <= 40 else f"{str(value)[:12]}..."
