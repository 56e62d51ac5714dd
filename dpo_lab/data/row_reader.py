"""Rows of files or data sets as feedback, all of one kind, with a report of what was read and what was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from dpo_lab.data.base import Feedback
from dpo_lab.data.files.source import RowSource
from dpo_lab.data.formats.base import Format, detect, read_row, unread
from dpo_lab.data.formats.values import BadRowError, short
from dpo_lab.data.messages import Message, carried
from dpo_lab.data.repeated import disagreement, prompt_once

CANARY = "canary"
LISTED = 10
"""Bad rows that are listed; the rest are counted."""


def listed(messages: Sequence[str]) -> list[str]:
    """The first messages about bad rows, and how many more there are."""
    more = len(messages) - LISTED
    return [*messages[:LISTED], *([f"... and {more:,} more"] if more > 0 else [])]


class OnBadRow(Enum):
    """What to do about a row that cannot be read. skip: leave it out, count and list it."""

    error = "error"
    skip = "skip"


class RepeatedPrompt(Enum):
    """What to do about a text prompt that all completions of its row begin with again."""

    remove = "remove"
    keep = "keep"


@dataclass
class ReadReport:
    """What reading has met so far: the kind of the rows, and counts."""

    format: Format | None = None
    first: tuple[str, Feedback] | None = None
    """The first row that could be read, and its place."""
    fields: tuple[str, ...] = ()
    """Of the first row, those that are read."""
    num_rows: int = 0
    """Rows that could be read."""
    num_reordered: int = 0
    """Rows whose completions were put in the order of their scores or ratings."""
    num_bad: int = 0
    bad: list[str] = field(default_factory=list)
    """Messages of the first bad rows."""
    unread: Counter[str] = field(default_factory=Counter)
    """Rows that have a field which is not read, for each such field."""
    carried: Counter[str] = field(default_factory=Counter)
    """Rows whose messages have a field besides role and content, for each such field."""
    remarks: Counter[str] = field(default_factory=Counter)
    """Rows of which something else is to be told, by what it is."""

    @property
    def noun(self) -> str:
        """The word for the rows."""
        count = 0 if self.first is None else len(self.first[1].completions)
        return {1: "completions", 2: "pairs"}.get(count, "rankings")

    def add(self, where: str, fields: Mapping[str, Any], row: Feedback) -> None:
        """Count a row. Raises BadRowError for one of another kind than the first."""
        assert self.format is not None
        ignored = list(unread(self.format, fields))
        if self.first is None:
            self.first = where, row
            self.fields = tuple(short(name).strip("'") for name in fields if name not in ignored)
        _check_kind(row, *self.first)
        self.num_rows += 1
        self.unread.update(ignored)
        self.carried.update(carried(row.prompt, row.completions))

    def add_bad(self, message: str) -> None:
        self.num_bad += 1
        self.bad += [message] if self.num_bad <= LISTED else []

    def notes(self, source: RowSource) -> list[str]:
        """How the rows were read, in lines for the user."""
        assert self.format is not None, "nothing was read"
        notes = [f"{source}: read as data.format={self.format.name}, with {', '.join(self.fields)}", *source.notes]
        if self.num_reordered:
            notes.append(f"{self.num_reordered:,} of the {self.noun} are put in the order of their scores or ratings")
        notes += [f"{count:,} of the {self.noun} {remark}" for remark, count in self.remarks.most_common()]
        if self.carried:
            notes.append(f"besides role and content, messages give the chat template {_listed(self.carried)}")
        if self.unread:
            notes.append(f"fields that are not read: {_listed(self.unread)}")
        if self.num_bad:
            unlisted = [f"... and {self.num_bad - len(self.bad):,} more"] if self.num_bad > len(self.bad) else []
            notes += [f"{self.num_bad:,} bad rows left out:", *(f"  {line}" for line in [*self.bad, *unlisted])]
        return notes


def _listed(rows: Counter[str]) -> str:
    fields = ", ".join(f"{short(name)} ({count:,} rows)" for name, count in rows.most_common(LISTED))
    return f"{fields} and {len(rows) - LISTED} more" if len(rows) > LISTED else fields


@dataclass
class RowReader:
    """Reads the rows of a source as feedback."""

    source: RowSource
    format: Format = Format.auto
    columns: Mapping[str, str] = field(default_factory=dict)
    on_bad_row: OnBadRow = OnBadRow.error
    as_chat: bool = False
    """Make text prompts a user's message."""
    repeated_prompt: RepeatedPrompt = RepeatedPrompt.remove
    to_train: bool = False
    """Refuse rows with a canary, by which their authors ask that nothing be trained on them."""

    def read(self, report: ReadReport) -> Iterator[Feedback]:
        """Every row that can be read, best completion first; `report` is filled meanwhile.

        Raises ValueError with file and line for a bad row, unless such are skipped, and where no row can be read.
        """
        report.format = None if self.format is Format.auto else self.format
        for where, fields in self.source.rows(self.columns):
            if self.to_train and isinstance(fields, dict) and CANARY in fields:
                raise ValueError(
                    f"{where}: a row with a '{CANARY}' is there to evaluate on, never to train on: data.eval_path="
                )
            try:
                row = _read(where, fields, report)
            except BadRowError as error:
                message = f"{where}: {error}{_expected(fields, report)}"
                if self.on_bad_row is OnBadRow.error:
                    raise ValueError(message) from error
                report.add_bad(message)
                continue
            yield replace(self._prompt_once(fields, row, report), where=where)
        if report.first is None:
            reason = f"none of its {report.num_bad:,} rows can be read, such as {report.bad[0]}" if report.num_bad else ""
            raise ValueError(f"{self.source}: {reason or 'it holds no rows'}")

    def _prompt_once(self, fields: Any, row: Feedback, report: ReadReport) -> Feedback:
        """The row without prompts that its completions repeat, as a conversation if that is wanted. What is odd is counted."""
        if self.as_chat and isinstance(row.prompt, str):
            row = replace(row, prompt=(Message("user", row.prompt),))
        keep = self.repeated_prompt is RepeatedPrompt.keep or report.format in (Format.chat, Format.transcript)
        row, remark = prompt_once(row, keep)
        report.remarks.update(said for said in (remark, disagreement(fields, row.prompt)) if said is not None)
        return row


def read_feedback(*paths: str) -> list[Feedback]:
    """All rows of the files, in the format of the first. Raises ValueError for a bad row, with file and line."""
    return list(RowReader(RowSource("path", paths, None, "train")).read(ReadReport()))


def _read(where: str, fields: Mapping[str, Any] | BadRowError, report: ReadReport) -> Feedback:
    if isinstance(fields, BadRowError):
        raise fields
    report.format = report.format or detect(fields)
    row = read_row(report.format, fields)
    report.add(where, fields, row)
    ordered = best_first(row, report.format)
    report.num_reordered += ordered is not row
    return ordered


def _expected(fields: Mapping[str, Any] | BadRowError, report: ReadReport) -> str:
    """What to add to the message of a bad row that has the fields of another format than the rows before it."""
    if report.first is None or report.format is None or isinstance(fields, BadRowError):
        return ""
    try:
        same = detect(fields) is report.format
    except BadRowError:
        same = True
    return "" if same else f"; rows are read as data.format={report.format.name}, as {report.first[0]} is"


def best_first(row: Feedback, form: Format) -> Feedback:
    """The row with its completions in the order of their ratings, or of a ranking's scores; the same object if they are.

    Equal ones stay in their order.
    """
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
    count, expected = len(row.completions), len(first.completions)
    if count != expected:
        raise BadRowError(f"{count} completions, but {where} has {expected}; all rows have equally many")
    for name in ("scores", "margin"):
        has, first_has = (getattr(feedback, name) is not None for feedback in (row, first))
        if has != first_has:
            raise BadRowError(
                f"a row with{'' if has else 'out'} {name}, unlike {where}; a file has {name} in every row or in none"
            )
