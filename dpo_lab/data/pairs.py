"""Labelled pairs, rankings or single completions from files of any common kind, or from the Hugging Face hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from dpo_lab.data.base import DATA, Corpus, DataSource, Feedback, Reread, share_of
from dpo_lab.data.files.source import RowSource, paths_of
from dpo_lab.data.formats.base import FIELDS, Format
from dpo_lab.data.messages import Prompt, plain, written
from dpo_lab.data.row_reader import OnBadRow, ReadReport, RepeatedPrompt, RowReader
from dpo_lab.data.statistics import (
    IN_EVAL,
    FeedbackStatistics,
    data_warnings,
    nothing_to_learn,
    prompt_digest,
    row_digest,
    split_text,
)
from dpo_lab.registry import suggestion

KNOWN_FIELDS = sorted({name for names in FIELDS.values() for name in names})


@DATA.register
@dataclass
class PairsSource(DataSource):
    """Pairs, rankings or labelled completions, from JSON Lines, JSON, CSV, TSV or Parquet files, or the Hugging Face hub.

    All rows have the format of the first (see `Format`). A prompt is text, which completions are appended to as they are, or a
    conversation, which the tokenizer's chat template lays out. Rows with nothing to learn (an empty completion,
    equal ones, a ranking whose scores are all equal) are left out and counted.

    The split is by a hash of the prompt, of a conversation by that of its opening: no prompt is both trained on and held out.
    Files are read row by row; of each row a few bytes stay in memory, its text does not.
    """

    name: str = "pairs"
    has_pairs: ClassVar[bool] = True
    path: Any = ""
    """A file, a folder, a glob, hub:OWNER/NAME, or a list of these."""
    format: Format = Format.auto
    """How a row is read. auto decides by the first row's fields, and says so."""
    columns: dict[str, str] = field(default_factory=dict)
    """The file's own name of a field, where it has another: {prompt: question}."""
    chat: bool = False
    """Take text prompts as a user's message to an assistant, which goes through the tokenizer's chat template."""
    eval_share: float = 0.1
    """Share of the prompts that is held out."""
    eval_path: Any = ""
    """Hold out these rows instead. Rows to train on that are among them are left out."""
    on_bad_row: OnBadRow = OnBadRow.error
    """A row that cannot be read ends the run (error), or is left out, counted and listed (skip)."""
    repeated_prompt: RepeatedPrompt = RepeatedPrompt.remove
    """A text prompt that all completions begin with again is taken off them (remove), or left there (keep), and counted."""
    split: str = "train"
    """Of a data set of the hub, or of a folder whose files are named by splits."""
    subset: str | None = None
    """Of a data set of the hub that has several configurations."""

    def __post_init__(self) -> None:
        if not 0 < self.eval_share < 1:
            raise ValueError(f"data.eval_share must be between 0 and 1, got {self.eval_share}")
        for name in self.columns:
            if name not in KNOWN_FIELDS:
                raise ValueError(f"data.columns: there is no field '{name}'.{suggestion(name, KNOWN_FIELDS)}")

    @property
    def skips_bad_rows(self) -> bool:
        return self.on_bad_row is OnBadRow.skip

    def load(self) -> Corpus:
        counts: Counter[str] = Counter()
        train, held_out = FeedbackStatistics(), FeedbackStatistics()
        report, eval_report = ReadReport(), ReadReport()
        if self._eval is not None:
            for row in _usable(self._eval.read(eval_report), counts):
                held_out.add(row)
        eval_digests = set(held_out.digests)
        for row in _usable(self._train.read(report), counts):
            side = self._side(row, eval_digests)
            if side is None:
                counts[IN_EVAL] += 1
            else:
                (held_out if side == "eval" else train).add(row)
        noun = report.noun
        if not train.num_rows or not held_out.num_rows:
            raise ValueError(f"{self._train.source}: {self._nothing_left(report, train, held_out, counts)}")
        train_rows = Reread(lambda: self._rows("train", eval_digests), train.num_rows)
        eval_rows = Reread(lambda: self._rows("eval", eval_digests), held_out.num_rows)
        num_desirable = train.num_rows - train.num_undesirable
        return Corpus(
            text=Reread(lambda: _texts(train_rows), num_desirable),
            train_prompts=Reread(lambda: _prompts(train_rows), len(train.prompts)),
            eval_prompts=Reread(lambda: _prompts(eval_rows), len(held_out.prompts)),
            train=train_rows,
            eval=eval_rows,
            counts={
                f"{noun} read": report.num_rows + eval_report.num_rows,
                **counts,
                f"{noun} to train on": train.num_rows,
                f"{noun} held out": held_out.num_rows,
                **({"desirable ones to train on": num_desirable} if report.format is Format.unpaired else {}),
            },
            notes=[
                *report.notes(self._train.source),
                *([] if self._eval is None else eval_report.notes(self._eval.source)),
                *data_warnings(noun, train, held_out),
            ],
        )

    def _nothing_left(
        self, report: ReadReport, train: FeedbackStatistics, held_out: FeedbackStatistics, counts: Counter[str]
    ) -> str:
        """What became of the rows where none is left to train on or none held out, and what would help."""
        why = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        if report.bad:
            why += f"{', ' if why else ''}{report.num_bad:,} bad rows left out, such as {report.bad[0]}"
        left = (
            f"{train.num_rows + held_out.num_rows:,} usable {report.noun} leave {train.num_rows:,} to train on and "
            f"{held_out.num_rows:,} held out{f' ({why})' if why else ''}; both are needed: "
        )
        if counts[IN_EVAL]:
            return f"{left}name other rows in data.eval_path than in data.path"
        if self._eval is not None or not train.num_rows + held_out.num_rows:
            side = "data.path" if held_out.num_rows else "data.eval_path" if train.num_rows else "it"
            return f"{left}no row of {side} has completions to learn from"
        if train.num_rows + held_out.num_rows > 1 and len({*train.openings, *held_out.openings}) == 1:
            return f"{left}all prompts open alike, and the split is by the opening: name held-out rows by data.eval_path"
        return f"{left}give more prompts, another data.eval_share, or held-out rows by data.eval_path"

    def held_out(self) -> list[Feedback]:
        """The rows of `eval_path` alone, for no training; those with nothing to learn are left out."""
        assert self._eval is not None, "data.eval_path is not set"
        return list(_usable(self._eval.read(ReadReport())))

    def first(self) -> Feedback | None:
        return next(self._train.read(ReadReport()))

    def fingerprint(self) -> dict[str, Any]:
        return {"files": [reader.source.digests for reader in (self._train, self._eval) if reader is not None]}

    @cached_property
    def _train(self) -> RowReader:
        if not self.path:
            raise ValueError("data.path is not set: data=pairs needs data.path=FILE")
        return self._reader("data.path", self.path)

    @cached_property
    def _eval(self) -> RowReader | None:
        return self._reader("data.eval_path", self.eval_path) if self.eval_path else None

    def _reader(self, setting: str, value: Any) -> RowReader:
        source = RowSource(setting, paths_of(setting, value), self.subset, self.split)
        to_train = setting == "data.path"
        return RowReader(source, self.format, self.columns, self.on_bad_row, self.chat, self.repeated_prompt, to_train)

    def _rows(self, side: str, eval_digests: Collection[int]) -> Iterator[Feedback]:
        """The usable rows to train on, or those held out."""
        if self._eval is not None and side == "eval":
            return _usable(self._eval.read(ReadReport()))
        return (row for row in _usable(self._train.read(ReadReport())) if self._side(row, eval_digests) == side)

    def _side(self, row: Feedback, eval_digests: Collection[int]) -> str | None:
        """The side of a usable row of `path`: "train" or "eval"; None for one that the rows of `eval_path` hold, too."""
        if self._eval is None:
            return "eval" if share_of(split_text(row.prompt)) < self.eval_share else "train"
        return None if row_digest(row) in eval_digests else "train"


def _usable(rows: Iterable[Feedback], counts: Counter[str] | None = None) -> Iterator[Feedback]:
    """The rows that there is something to learn from; for the others, the reason is counted."""
    for row in rows:
        reason = nothing_to_learn(row)
        if reason is None:
            yield row
        elif counts is not None:
            counts[reason] += 1


def _texts(rows: Iterable[Feedback]) -> Iterator[str]:
    """What a base policy is fitted on: each prompt with its best completion."""
    return (plain(row.prompt) + written(row.completions[0]) for row in rows if row.desirable is not False)


def _prompts(rows: Iterable[Feedback]) -> Iterator[Prompt]:
    """The different prompts, in order."""
    seen: set[int] = set()
    for row in rows:
        digest = prompt_digest(row.prompt)
        if digest not in seen:
            seen.add(digest)
            yield row.prompt
