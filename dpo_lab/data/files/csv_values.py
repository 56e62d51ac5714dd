"""Cells of CSV and TSV files as values: numbers, lists and messages are written in them as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dpo_lab.data.formats.base import LABELS
from dpo_lab.data.formats.conversations import is_conversation

NOT_TEXT = (*LABELS, "completions", "scores", "ranks", "ratings")
"""Columns of numbers or lists."""


def csv_values(row: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a row of cells. An empty cell in a column of numbers or lists is a missing value."""
    return {name: _value(name, cell) for name, cell in row.items()}


def _value(name: str, cell: str) -> Any:
    if name in NOT_TEXT:
        return None if not cell.strip() else _json(cell)
    if cell.lstrip().startswith(("[", "{")):
        value = _json(cell)
        return value if is_conversation(value) else cell
    return cell


def _json(cell: str) -> Any:
    """The JSON value in the cell; the cell itself where it holds none."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
