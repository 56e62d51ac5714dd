"""What somebody has labelled, from files of any common kind and shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from dpo_lab.data.base import DATA, Corpus, DataSource, Feedback, Reread, share_of
from dpo_lab.data.files.source import Place, paths_of
from dpo_lab.data.formats.base import FIELDS, Format
from dpo_lab.data.messages import Prompt, plain
from dpo_lab.data.row_reader import FeedbackRows, OnBadRow, Tally
from dpo_lab.data.statistics import IN_EVAL, Check, nothing_to_learn, opening, prompt_digest, remarks, row_digest
from dpo_lab.registry import suggestion

OURS = sorted({name for names in FIELDS.values() for name in names})


@DATA.register
@dataclass
class PairsSource(DataSource):
    """Pairs, rankings or labelled completions, from JSON Lines, JSON, CSV, TSV or Parquet files, or the Hugging Face hub.

    All rows are of one kind, by the fields of the first (see `Format`). A prompt is text, which completions are appended to as
    they are, or a conversation, which the tokenizer's chat template lays out. Rows with nothing to learn (an empty completion,
    equal ones, a ranking whose scores are all equal) are left out and counted.

    The split is by a hash of the prompt, of a conversation by its opening: no prompt is both trained on and held out. Files
    are read row by row; of each row some bytes stay in memory, its text does not.
    """

    name: str = "pairs"
    has_pairs: ClassVar[bool] = True
    path: Any = ""
    """A file, a folder, a glob, hub:OWNER/NAME, or a list of these."""
    format: Format = Format.auto
    columns: dict[str, str] = field(default_factory=dict)
    """What the file calls a field that is called otherwise here: {prompt: question}."""
    chat: bool = False
    """Text prompts are what a user says to an assistant, and go through the tokenizer's chat template."""
    eval_share: float = 0.1
    """Share of the prompts that is held out."""
    eval_path: Any = ""
    """Hold out these rows instead. Rows to train on that are among them are left out."""
    on_bad_row: OnBadRow = OnBadRow.error
    split: str = "train"
    """Of a data set of the hub."""
    subset: str | None = None
    """Of a data set of the hub that has several configurations."""

    def __post_init__(self) -> None:
        if not 0 < self.eval_share < 1:
            raise ValueError(f"data.eval_share must be between 0 and 1, got {self.eval_share}")
        for ours in self.columns:
            if ours not in OURS:
                raise ValueError(f"data.columns: there is no field '{ours}'.{suggestion(ours, OURS)}")

    def load(self) -> Corpus:
        train, held_out = self._train, self._eval
        counts: Counter[str] = Counter()
        sides = {"train": Check(), "eval": Check()}
        tally, eval_tally = Tally(), Tally()
        for row in () if held_out is None else held_out.read(eval_tally):
            if _usable(row, counts):
                sides["eval"].add(row)
        apart = set(sides["eval"].keys)  # no row is added to it any more where the rows held out are given
        for row in train.read(tally):
            if _usable(row, counts):
                if held_out is None:
                    sides["eval" if self._is_held_out(row) else "train"].add(row)
                elif row_digest(row) in apart:
                    counts[IN_EVAL] += 1
                else:
                    sides["train"].add(row)
        noun = tally.noun
        sizes = {side: check.rows for side, check in sides.items()}
        if not all(sizes.values()):
            raise ValueError(
                f"{train.place}: {sum(sizes.values())} usable {noun} leave {sizes['train']} to train on and {sizes['eval']} "
                "held out; both are needed: give more prompts, or another data.eval_share"
            )

        def of(side: str) -> Iterator[Feedback]:
            rows = held_out if held_out is not None and side == "eval" else train
            for row in rows.read(Tally()):
                if nothing_to_learn(row) is None and self._side(row, apart, given=rows is held_out) == side:
                    yield row

        def prompts(side: str) -> Collection[Prompt]:
            return Reread(lambda: _distinct(row.prompt for row in of(side)), len(sides[side].prompts))

        desirable = sides["train"].rows - sides["train"].undesirable
        return Corpus(
            text=Reread(lambda: _texts(of("train")), desirable),
            train_prompts=prompts("train"),
            eval_prompts=prompts("eval"),
            train=Reread(lambda: of("train"), sizes["train"]),
            eval=Reread(lambda: of("eval"), sizes["eval"]),
            counts={
                f"{noun} read": tally.rows + eval_tally.rows,
                **counts,
                f"{noun} to train on": sizes["train"],
                f"{noun} held out": sizes["eval"],
                **({"desirable ones to train on": desirable} if tally.format is Format.unpaired else {}),
            },
            notes=[
                *tally.notes(train.place),
                *([] if held_out is None else eval_tally.notes(held_out.place)),
                *remarks(noun, sides["train"], sides["eval"]),
            ],
        )

    def held_out(self) -> list[Feedback]:
        """The rows of `eval_path` alone, for no training; those with nothing to learn are left out."""
        assert self._eval is not None, "data.eval_path is not set"
        counts: Counter[str] = Counter()
        return [row for row in self._eval.read(Tally()) if _usable(row, counts)]

    def first(self) -> Feedback | None:
        return next(self._train.read(Tally()))

    def fingerprint(self) -> dict[str, Any]:
        return {"files": [rows.place.digests for rows in (self._train, self._eval) if rows is not None]}

    @cached_property
    def _train(self) -> FeedbackRows:
        if not self.path:
            raise ValueError("data.path is not set: data=pairs needs data.path=FILE")
        return self._rows("data.path", self.path)

    @cached_property
    def _eval(self) -> FeedbackRows | None:
        return self._rows("data.eval_path", self.eval_path) if self.eval_path else None

    def _rows(self, setting: str, value: Any) -> FeedbackRows:
        place = Place(setting, paths_of(setting, value), self.subset, self.split)
        to_train = setting == "data.path"
        return FeedbackRows(place, self.format, self.columns, self.on_bad_row, self.chat, to_train)

    def _is_held_out(self, row: Feedback) -> bool:
        return share_of(opening(row.prompt)) < self.eval_share

    def _side(self, row: Feedback, apart: Collection[int], given: bool) -> str:
        """Where a usable row belongs: to "train", to "eval", or to neither ("")."""
        if self._eval is None:
            return "eval" if self._is_held_out(row) else "train"
        if given:
            return "eval"
        return "" if row_digest(row) in apart else "train"


def _usable(row: Feedback, counts: Counter[str]) -> bool:
    """Whether there is something to learn from the row; if not, that is counted."""
    reason = nothing_to_learn(row)
    if reason is not None:
        counts[reason] += 1
    return reason is None


def _texts(rows: Iterable[Feedback]) -> Iterator[str]:
    """What a base policy is fitted on: the better completion after its prompt."""
    return (plain(row.prompt) + row.completions[0] for row in rows if row.desirable is not False)


def _distinct(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    seen: set[int] = set()
    for prompt in prompts:
        key = prompt_digest(prompt)
        if key not in seen:
            seen.add(key)
            yield prompt
