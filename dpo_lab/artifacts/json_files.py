"""JSON files that stay readable whenever the process is killed.

JSON has no nan and no inf: a number that is not finite is written as null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.directory import flush


def to_line(row: Mapping[str, Any]) -> str:
    """One line of a JSON-lines file, newline included."""
    return json.dumps(_storable(row), allow_nan=False, ensure_ascii=False, default=str) + "\n"


def to_text(values: Mapping[str, Any]) -> str:
    """A JSON document, indented for people to read."""
    return json.dumps(_storable(values), allow_nan=False, ensure_ascii=False, default=str, indent=2) + "\n"


def _storable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects in a JSON-lines file; [] if there is no file.

    A last line that was cut short, as a kill leaves it, is left out. Raises ValueError for any other line that is no object.
    """
    lines = file.read_bytes().split(b"\n") if file.exists() else [b""]
    rows = []
    for number, line in enumerate(lines, start=1):
        unfinished = number == len(lines)  # no newline follows
        try:
            row = json.loads(line.decode())
        except ValueError as error:
            if unfinished:
                break
            raise ValueError(f"{file}:{number}: not JSON ({error}); only a torn last line is forgiven") from error
        if not isinstance(row, dict):
            raise ValueError(f"{file}:{number}: not a JSON object but {type(row).__name__}")
        rows.append(row)
    return rows


def append(file: Path, text: str) -> None:
    """Append `text` to `file`: all of it or, if that fails, nothing."""
    with file.open("ab", buffering=0) as opened:
        end, data = opened.seek(0, os.SEEK_END), text.encode()
        try:
            while data:
                data = data[opened.write(data) :]
        except OSError as error:
            opened.truncate(end)
            raise OSError(error.errno, error.strerror, str(file)) from error


def write_atomically(path: Path, text: str) -> None:
    """Replace the text of `path`: it holds the old text or the new one, whenever the process or the machine stops."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
