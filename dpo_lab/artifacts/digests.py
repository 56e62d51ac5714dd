"""Digests of values and of files: equal digests mean equal contents, in any process and on any machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """16 hexadecimal digits of the sha256 of a value: dataclasses, enums, paths and JSON types."""
    return hashlib.sha256(json.dumps(json_value(value), sort_keys=True).encode()).hexdigest()[:16]


def json_value(value: Any) -> Any:
    """The value as JSON types: a dataclass as an object of its fields, an enum by its name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_value(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    assert value is None or isinstance(value, str | int | float | bool), f"{type(value)} cannot be part of a key"
    return value


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, in 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_file_digest(path: Path) -> str:
    """`file_digest`, computed once per process while size and date stay: every job of a sweep asks for a model of gigabytes."""
    stat = path.stat()
    return _cached(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _cached(path: Path, size: int, modified: int) -> str:
    return file_digest(path)
