"""Rows of feedback in a JSON Lines file: three forms, one of them in each file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from reprlib import Repr
from typing import Any

import torch

from dpo_lab.data.base import Feedback

LARGEST = torch.finfo(torch.float32).max
"""Numbers become float32."""

SHORT = Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 60
SHORT.maxlist = 20


class Form(Enum):
    """What each row of a file is, and the fields that it must have."""

    pairs = ("prompt", "chosen", "rejected")
    completions = ("prompt", "completion", "label")
    rankings = ("prompt", "completions")

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.value)})"


MARKS = {"chosen": Form.pairs, "rejected": Form.pairs, "completion": Form.completions, "completions": Form.rankings}
"""The fields that tell the forms apart."""
FORMS = " or ".join(map(str, Form))


@dataclass
class Kind:
    """What all rows of a file have in common, and where it was first seen."""

    form: Form
    row: Feedback
    where: str

    def check(self, other: Kind) -> None:
        """Raises ValueError if a later row is of another kind."""
        if other.form is not self.form:
            raise ValueError(f"{other.where}: {other.form}, but {self.where} has {self.form}; a file holds one form")
        here, there = len(other.row.completions), len(self.row.completions)
        if here != there:
            raise ValueError(
                f"{other.where}: {here} completions, but {self.where} has {there}; a file has equally many in every row"
            )
        for what in ("scores", "margin"):
            ours, theirs = (getattr(kind.row, what) is not None for kind in (self, other))
            if ours != theirs:
                raise ValueError(
                    f"{other.where}: a row with{'' if theirs else 'out'} {what}, unlike {self.where}; "
                    f"a file has {what} in every row or in none"
                )


def read_feedback(path: Path, name: str) -> tuple[Form, list[Feedback]]:
    """The form of a file and its rows. Raises ValueError with `name` and line for the first bad row."""
    rows: list[Feedback] = []
    first: Kind | None = None
    for where, fields in _objects(path, name):
        form = _form(fields, where, first)
        kind = Kind(form, READERS[form](fields, where), where)
        first = first or kind
        first.check(kind)
        rows.append(kind.row)
    if first is None:
        raise ValueError(f"{name}: the file holds no rows")
    return first.form, rows


def _objects(path: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's object, after its name and line number."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{name}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 (byte {error.start} of the line: {error.reason})") from error
            if not text.strip():
                continue
            try:
                fields = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not JSON ({error})") from error
            if not isinstance(fields, dict):
                raise ValueError(f"{where}: expected an object with {FORMS}, found {type(fields).__name__}")
            yield where, fields


def _form(fields: Mapping[str, Any], where: str, first: Kind | None) -> Form:
    found = [form for form in Form if any(MARKS.get(name) is form for name in fields)]
    if len(found) > 1:
        raise ValueError(f"{where}: fields of {' and of '.join(map(str, found))}; a row has one form")
    if not found and first is None:
        raise ValueError(f"{where}: expected {FORMS}; found {SHORT.repr(sorted(fields))}")
    return found[0] if found or first is None else first.form


def _pair(fields: Mapping[str, Any], where: str) -> Feedback:
    texts = [_text(_required(fields, name, where), name, where) for name in Form.pairs.value]
    confidence = fields.get("confidence", 1.0)
    if not _is_number(confidence, 0.5, 1.0):
        raise ValueError(f"{where}: 'confidence' must be a number in [0.5, 1], found {SHORT.repr(confidence)}")
    scores = None
    if "score_chosen" in fields or "score_rejected" in fields:
        both = ("score_chosen", "score_rejected")
        scores = tuple(_number(_required(fields, name, where), name, where) for name in both)
    margin = _number(fields["margin"], "margin", where) if "margin" in fields else None
    return Feedback(texts[0], (texts[1], texts[2]), confidence=float(confidence), scores=scores, margin=margin)


def _completion(fields: Mapping[str, Any], where: str) -> Feedback:
    prompt, completion = (_text(_required(fields, name, where), name, where) for name in ("prompt", "completion"))
    label = _required(fields, "label", where)
    if not isinstance(label, bool):
        raise ValueError(f"{where}: 'label' must be true or false, found {SHORT.repr(label)}")
    return Feedback(prompt, (completion,), desirable=label)


def _ranking(fields: Mapping[str, Any], where: str) -> Feedback:
    prompt = _text(_required(fields, "prompt", where), "prompt", where)
    found = _required(fields, "completions", where)
    if not isinstance(found, list) or len(found) < 2:
        raise ValueError(f"{where}: 'completions' must be a list of 2 or more, best first, found {SHORT.repr(found)}")
    completions = tuple(_text(text, f"completions[{i}]", where) for i, text in enumerate(found))
    if "scores" not in fields:
        return Feedback(prompt, completions)
    given = fields["scores"]
    if not isinstance(given, list) or len(given) != len(completions):
        raise ValueError(
            f"{where}: 'scores' must be a list of {len(completions)}, one for each completion, found {SHORT.repr(given)}"
        )
    return Feedback(prompt, completions, scores=tuple(_number(score, f"scores[{i}]", where) for i, score in enumerate(given)))


READERS: dict[Form, Callable[[Mapping[str, Any], str], Feedback]] = {
    Form.pairs: _pair,
    Form.completions: _completion,
    Form.rankings: _ranking,
}


def _required(fields: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in fields:
        raise ValueError(f"{where}: no '{name}' field; found {SHORT.repr(sorted(fields))}")
    return fields[name]


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: '{name}' must be a string, found {type(value).__name__}")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"{where}: '{name}' holds half a character (a lone surrogate, \\ud800 to \\udfff)")
    return value


def _is_number(value: Any, lowest: float, highest: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def _number(value: Any, name: str, where: str) -> float:
    if not _is_number(value, -LARGEST, LARGEST):
        raise ValueError(f"{where}: '{name}' must be a number that is finite in float32, found {SHORT.repr(value)}")
    return float(value)
