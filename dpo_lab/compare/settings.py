"""The settings in which runs differ, and the few of them that tell the runs apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings that vary, sorted."""
    keys = sorted({key for run in settings for key in run})
    return [key for key in keys if len({json.dumps(run.get(key)) for run in settings}) > 1]


def distinguishing(settings: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """The fewest of `keys` that tell apart what all `keys` do: those that split most are chosen first, names before numbers.

    The others move along with these, as a loss's own settings do with `loss.name`.
    """
    rows = {json.dumps([run.get(key) for key in keys]): run for run in settings}
    chosen: list[str] = []
    while len({_values(run, chosen) for run in rows.values()}) < len(rows):

        def parts(key: str) -> tuple[int, bool]:
            return len({_values(run, [*chosen, key]) for run in rows.values()}), key.endswith("name")

        chosen.append(max((key for key in keys if key not in chosen), key=parts))
    return sorted(chosen, key=list(keys).index)


def describe_settings(settings: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> list[str]:
    """A line for each setting that is shown, with its values, and one that names the settings that move along."""
    lines = []
    for key in shown:
        values = list(dict.fromkeys(str(run.get(key)) for run in settings))
        text = ", ".join(values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
        lines.append(f"{key}: {text}")
    along = [key for key in varying(settings) if key not in shown]
    if along:
        lines.append(f"also different: {', '.join(along)}")
    return lines


def _values(run: Mapping[str, Any], keys: Sequence[str]) -> str:
    return json.dumps([run.get(key) for key in keys])
