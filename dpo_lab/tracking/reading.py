"""Reads a run directory: its metrics, its summary, and the facts in run.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.json_files import read_lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged rows of a run directory (or of a metrics.jsonl) in order, nan where the file has null; [] without the file.

    A torn last line, as a kill leaves it, is left out. Raises ValueError for any other line that is no JSON object.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    return [{key: math.nan if value is None else value for key, value in row.items()} for row in read_lines(file)]


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json of a run directory, {} if the run has not written one."""
    return _read_object(path / "summary.json")


def read_run(path: Path) -> dict[str, Any]:
    """run.json of a run directory, {} if the run has not started."""
    return _read_object(path / "run.json")


def _read_object(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not a JSON object but {type(content).__name__}")
    return content
