"""What somebody has labelled, from a JSON Lines file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from dpo_lab.artifacts import file_digest
from dpo_lab.data.base import DATA, Corpus, DataSource, Feedback, share_of
from dpo_lab.data.rows import Form, read_feedback
from dpo_lab.messages import plain

EMPTY = "left out, empty completion"
EQUAL = {Form.pairs: "left out, identical pair", Form.rankings: "left out, identical completions"}
EQUAL_SCORES = "left out, equal scores"


@DATA.register
@dataclass
class JSONLSource(DataSource):
    """One object a line. All lines are pairs, or labelled completions, or rankings of one length, by their fields.

    Pairs: the strings `prompt`, `chosen`, `rejected`; optionally `confidence` in [.5, 1], the numbers `score_chosen` and
    `score_rejected`, and `margin`. Completions: the strings `prompt` and `completion`, and `label`, true if it is desirable.
    Rankings: the string `prompt`, and the list `completions`, best first; optionally the list `scores`, which then decides
    the order (equal ones say nothing of it).

    Completions are appended to their prompt as they are: write the space between them. The split is by a hash of the prompt,
    so a prompt is either trained on or held out, never both. Rows with nothing to learn (an empty completion, two equal ones,
    a ranking whose scores are all equal) are left out and counted.
    """

    name: str = "jsonl"
    has_pairs: ClassVar[bool] = True
    path: str = ""
    eval_share: float = 0.1
    """Share of the prompts that is held out."""

    def __post_init__(self) -> None:
        if not 0 < self.eval_share < 1:
            raise ValueError(f"data.eval_share must be between 0 and 1, got {self.eval_share}")

    def load(self) -> Corpus:
        form, read = read_feedback(self._file(), self.path)
        rows = [best_first(row) for row in read] if form is Form.rankings else read
        reasons = [_nothing_to_learn(form, row) for row in rows]
        usable = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
        train = [row for row in usable if share_of(plain(row.prompt)) >= self.eval_share]
        held_out = [row for row in usable if share_of(plain(row.prompt)) < self.eval_share]
        if not train or not held_out:
            raise ValueError(
                f"{self.path}: {len(usable)} usable {form.name} leave {len(train)} to train on and {len(held_out)} held out; "
                "both are needed: give more prompts, or another data.eval_share"
            )
        counts = {f"{form.name} read": len(rows), EMPTY: reasons.count(EMPTY)}
        if form in EQUAL:
            counts[EQUAL[form]] = reasons.count(EQUAL[form])
        if rows[0].scores is not None:
            counts |= _about_scores(form, read, rows, reasons)
        counts |= {f"{form.name} to train on": len(train), f"{form.name} held out": len(held_out)}
        if form is Form.completions:
            counts["desirable ones to train on"] = sum(row.desirable is True for row in train)
        return Corpus(
            text=[plain(row.prompt) + row.completions[0] for row in train if row.desirable is not False],
            train_prompts=list(dict.fromkeys(plain(row.prompt) for row in train)),
            eval_prompts=list(dict.fromkeys(plain(row.prompt) for row in held_out)),
            train=train,
            eval=held_out,
            counts=counts,
        )

    def fingerprint(self) -> dict[str, Any]:
        return {"sha256": file_digest(self._file())}

    def _file(self) -> Path:
        if not self.path:
            raise ValueError("data.path is not set: data=jsonl needs data.path=FILE.jsonl")
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise ValueError(f"data.path: there is no file {self.path}")
        return file


def best_first(row: Feedback) -> Feedback:
    """The row in the order of its scores, if it has any. Completions of equal score stay as they stand."""
    if row.scores is None:
        return row
    scores = row.scores
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return replace(row, completions=tuple(row.completions[i] for i in order), scores=tuple(scores[i] for i in order))


def _nothing_to_learn(form: Form, row: Feedback) -> str | None:
    """Why a row is left out, if it is."""
    if not all(row.completions):
        return EMPTY
    if len(set(row.completions)) < len(row.completions):
        return EQUAL[form]
    if form is Form.rankings and row.scores is not None and len(set(row.scores)) == 1:
        return EQUAL_SCORES
    return None


def _about_scores(form: Form, read: list[Feedback], rows: list[Feedback], reasons: list[str | None]) -> dict[str, int]:
    """What the user should know of the scores in the file."""
    if form is Form.pairs:
        worse = sum(row.scores is not None and row.scores[0] < row.scores[1] for row in rows)
        return {"pairs whose rejected completion has the higher score": worse}
    reordered = sum(before != after for before, after in zip(read, rows, strict=True))
    return {EQUAL_SCORES: reasons.count(EQUAL_SCORES), "rankings put in the order of their scores": reordered}
