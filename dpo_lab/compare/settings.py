"""The settings in which runs differ, and the few of them that tell the runs apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings that vary, sorted."""
    keys = sorted({key for each in settings for key in each})
    return [key for key in keys if len({json.dumps(each.get(key)) for each in settings}) > 1]


def distinguishing(settings: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """The fewest of `keys` that tell apart what all `keys` do: those that split most are chosen first, names before numbers.

    The others move along with these, as a loss's own settings do with `loss.name`.
    """
    rows = {json.dumps([each.get(key) for key in keys]): each for each in settings}
    chosen: list[str] = []
    while len({_values(each, chosen) for each in rows.values()}) < len(rows):

        def parts(key: str) -> tuple[int, bool]:
            return len({_values(each, [*chosen, key]) for each in rows.values()}), key.endswith("name")

        chosen.append(max((key for key in keys if key not in chosen), key=parts))
    return sorted(chosen, key=list(keys).index)


def describe_settings(settings: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> list[str]:
    """A line for each setting that is shown, with its values, and one that names the settings that move along."""
    lines = []
    for key in shown:
        values = list(dict.fromkeys(str(each.get(key)) for each in settings))
        text = ", ".join(values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
        lines.append(f"{key}: {text}")
    along = [key for key in varying(settings) if key not in shown]
    if along:
        lines.append(f"also different: {', '.join(along)}")
    return lines


def _values(each: Mapping[str, Any], keys: Sequence[str]) -> str:
    return json.dumps([each.get(key) for key in keys])
