"""Cells of a table of text: numbers, lists and messages are written in them as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dpo_lab.data.formats.base import JUDGED
from dpo_lab.data.formats.conversations import is_conversation

WITH_NUMBERS = (*JUDGED, "completions", "scores", "ranks", "ratings")


def cells(row: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a row. An empty cell of a column that holds no text is no value."""
    return {name: _value(name, cell) for name, cell in row.items()}


def _value(name: str, cell: str) -> Any:
    if name in WITH_NUMBERS:
        return None if not cell.strip() else _json(cell)
    if cell.lstrip().startswith(("[", "{")):
        found = _json(cell)
        return found if is_conversation(found) else cell
    return cell


def _json(cell: str) -> Any:
    """The value that the cell writes, else the cell."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
