"""Rows of feedback from a place, all of one kind; what could not be read or was not looked at is told at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from dpo_lab.data.base import Feedback
from dpo_lab.data.files.source import Place
from dpo_lab.data.formats.base import Format, detect, read_row, unread
from dpo_lab.data.formats.values import BadRowError, short
from dpo_lab.data.messages import Message

CANARY = "canary"
LISTED = 10
"""Bad rows that are listed; the rest is counted."""


class OnBadRow(Enum):
    """What to do about a row that cannot be read. skip: leave it out, count and list it."""

    error = "error"
    skip = "skip"


@dataclass
class Tally:
    """What was met while reading."""

    format: Format | None = None
    completions: int = 0
    """Of each row."""
    fields: tuple[str, ...] = ()
    """Of the first row."""
    rows: int = 0
    """That could be read."""
    reordered: int = 0
    """Rows whose scores or ratings say another order than the one they stand in."""
    bad: int = 0
    listed: list[str] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    """Rows that have a field which is not read, for each such field."""

    @property
    def noun(self) -> str:
        """What the rows are."""
        return {1: "completions", 2: "pairs"}.get(self.completions, "rankings")

    def notes(self, place: Place) -> list[str]:
        """How the rows were read, in lines for the user."""
        assert self.format is not None, "nothing was read"
        found = [f"{place}: read as data.format={self.format.name}, with {', '.join(self.fields)}"]
        if self.reordered:
            found.append(f"{self.reordered:,} of the {self.noun} are put in the order of their scores or ratings")
        if self.unread:
            fields = ", ".join(f"{short(name)} ({count:,} rows)" for name, count in self.unread.most_common(LISTED))
            more = f" and {len(self.unread) - LISTED} more" if len(self.unread) > LISTED else ""
            found.append(f"fields that are not read: {fields}{more}")
        if self.bad:
            unlisted = [f"... and {self.bad - len(self.listed):,} more"] if self.bad > len(self.listed) else []
            found += [f"{self.bad:,} bad rows left out:", *(f"  {line}" for line in [*self.listed, *unlisted])]
        return found


@dataclass
class FeedbackRows:
    """The rows of a place as feedback."""

    place: Place
    format: Format = Format.auto
    columns: Mapping[str, str] = field(default_factory=dict)
    on_bad_row: OnBadRow = OnBadRow.error
    as_chat: bool = False
    """Whether text prompts become a user's message."""
    to_train: bool = False
    """Whether rows with a canary, by which their authors ask that nothing be trained on them, are refused."""

    def read(self, tally: Tally) -> Iterator[Feedback]:
        """Every row that can be read. Raises ValueError with file and line for one that cannot, unless such are skipped.

        Raises ValueError where there is none.
        """
        form: Format | None = None if self.format is Format.auto else self.format
        first: tuple[str, Feedback] | None = None
        for where, fields in self.place.rows(self.columns):
            if self.to_train and isinstance(fields, dict) and CANARY in fields:
                raise ValueError(
                    f"{where}: a row with a '{CANARY}' is there to evaluate on, never to train on: data.eval_path="
                )
            try:
                if isinstance(fields, BadRowError):
                    raise fields
                form = form or detect(fields)
                row = read_row(form, fields)
                if first is None:
                    tally.format, tally.completions = form, len(row.completions)
                    ignored = set(unread(form, fields))
                    tally.fields = tuple(short(name).strip("'") for name in fields if name not in ignored)
                    first = where, row
                _check_kind(row, *first)
            except BadRowError as error:
                message = f"{where}: {error}"
                if first is not None and form is not None and not _looks_like(form, fields):
                    message += f"; rows are read as data.format={form.name}, as {first[0]} is"
                if self.on_bad_row is OnBadRow.error:
                    raise ValueError(message) from error
                tally.bad += 1
                tally.listed += [message] if tally.bad <= LISTED else []
                continue
            tally.rows += 1
            tally.unread.update(unread(form, fields))
            ordered = best_first(row, form)
            tally.reordered += ordered is not row
            row = ordered
            if self.as_chat and isinstance(row.prompt, str):
                row = replace(row, prompt=(Message("user", row.prompt),))
            yield row
        if first is None:
            reason = (
                f"none of its {tally.bad:,} rows can be read, such as {tally.listed[0]}" if tally.bad else "it holds no rows"
            )
            raise ValueError(f"{self.place}: {reason}")


def read_feedback(*paths: str) -> list[Feedback]:
    """All rows of the files, whose format is seen from the first. Raises ValueError as reading for a study does."""
    return list(FeedbackRows(Place("path", paths, None, "train")).read(Tally()))


def _looks_like(form: Format, fields: Mapping[str, Any] | BadRowError) -> bool:
    """Whether a row that could not be read has the fields of the format, or of none."""
    try:
        return isinstance(fields, BadRowError) or detect(fields) is form
    except BadRowError:
        return True


def best_first(row: Feedback, form: Format) -> Feedback:
    """The row itself, or in the order that its ratings, or a ranking's scores, say. Equal ones stay as they stand."""
    order = list(range(len(row.completions)))
    if row.confidence < 0.5:
        order.reverse()
    elif form is Format.ranking and row.scores is not None:
        scores = row.scores
        order.sort(key=lambda i: -scores[i])
    if order == sorted(order):
        return row
    return replace(
        row,
        completions=tuple(row.completions[i] for i in order),
        scores=None if row.scores is None else tuple(row.scores[i] for i in order),
        confidence=max(row.confidence, 1 - row.confidence),
    )


def _check_kind(row: Feedback, where: str, first: Feedback) -> None:
    """Raises BadRowError for a row of another kind than the first one, which stands at `where`."""
    here, there = len(row.completions), len(first.completions)
    if here != there:
        raise BadRowError(f"{here} completions, but {where} has {there}; all rows have equally many")
    for what in ("scores", "margin"):
        ours, theirs = (getattr(one, what) is not None for one in (row, first))
        if ours != theirs:
            raise BadRowError(
                f"a row with{'' if ours else 'out'} {what}, unlike {where}; a file has {what} in every row or in none"
            )
