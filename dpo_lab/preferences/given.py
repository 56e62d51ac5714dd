"""Candidates given with the data, tokenised."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from dpo_lab.data.base import Feedback
from dpo_lab.data.messages import UntokenizableError, plain, written
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.preferences.base import CANDIDATES, GivenSource, noun
from dpo_lab.preferences.labelling import certain_utilities
from dpo_lab.preferences.writing import TokenColumn, write_columns

LONG_PROMPT = "left out, prompt over max_prompt_tokens"
LONG_COMPLETION = "left out, completion over max_tokens"
EQUAL = "left out, equal after tokenisation"
UNREAD = "with '{}' in their messages, which the chat template does not read"
BAD = "left out, bad rows"
SPELLED = (
    "whose text spells {}: read as characters, not as special tokens (give messages, which the chat template lays out, or take "
    "these out of the text)"
)
CUT_PROMPT = "with the beginning of the prompt cut off"
CUT_COMPLETION = "with a completion cut off, which then has no end token"


class OnLong(Enum):
    """What to do about a prompt or a completion that is too long. drop: leave its row out, and count it."""

    drop = "drop"
    truncate = "truncate"
    error = "error"


@CANDIDATES.register
@dataclass
class GivenCandidates(GivenSource):
    """The data's own pairs, rankings or labelled completions."""

    name: str = "given"
    max_prompt_tokens: int = 64
    """Most tokens of a prompt, its start token included."""
    on_long_prompt: OnLong = OnLong.drop
    """truncate: from the left, but for the start token."""
    on_long_completion: OnLong = OnLong.drop
    """truncate: from the right; what is cut off does not end there, and gets no end token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_prompt_tokens < 1:
            raise ValueError(f"candidates.max_prompt_tokens must be at least 1, got {self.max_prompt_tokens}")

    def write(
        self, feedback: Collection[Feedback], tokenizer: Tokenizer, path: Path, on_bad: Callable[[str], None] | None = None
    ) -> dict[str, int]:
        """Tokenise the rows into a CandidateBatch in a safetensors file; the number of rows cut or left out, by reason.

        Only a few bytes of each row are held in memory. `on_bad` is told of each row that cannot become tokens, which is left
        out; without it such a row is a ValueError, as is where no row is left, or where some rows have scores, margins or
        labels and others do not.
        """
        num_bad, first_bad, spelled, num_spelled = 0, "", set[str](), 0
        counts = dict.fromkeys((LONG_PROMPT, LONG_COMPLETION, EQUAL, CUT_PROMPT, CUT_COMPLETION), 0)
        with ExitStack() as stack:
            rows = _Rows(lambda: TokenColumn(stack.enter_context(tempfile.TemporaryFile(dir=path.parent))))
            for row in feedback:
                try:
                    tokens = self._encode(row, tokenizer, counts)
                except UntokenizableError as error:
                    message = _with_place(row, error)
                    if on_bad is None:
                        raise ValueError(message + _way_out(row)) from error
                    on_bad(message)
                    num_bad, first_bad = num_bad + 1, first_bad or message
                    continue
                if tokens is not None:
                    rows.add(row, *tokens)
                    found = tokenizer.spelled_in("\0".join([plain(row.prompt), *map(written, row.completions)]))
                    spelled, num_spelled = spelled | found, num_spelled + bool(found)
            if not rows.columns:
                raise ValueError(self._nothing_left(feedback, counts, num_bad, first_bad))
            rows.write(path)
        said = {BAD: num_bad, SPELLED.format(", ".join(sorted(spelled))): num_spelled}
        return counts | {what: count for what, count in said.items() if count}

    def _encode(self, row: Feedback, tokenizer: Tokenizer, counts: dict[str, int]) -> tuple[list[int], list[list[int]]] | None:
        """Ids of the prompt and of its completions, cut where that is asked for; None for a row left out. Both are counted."""
        for name in tokenizer.unread(row.prompt, row.completions):
            counts[UNREAD.format(name)] = counts.get(UNREAD.format(name), 0) + 1
        prompt, completions = tokenizer.encode_candidates(row.prompt, row.completions)
        longest = max(map(len, completions))
        cuts = []
        if len(prompt) > self.max_prompt_tokens:
            if not self._may_cut(self.on_long_prompt, row, f"prompt of {len(prompt)} tokens", "max_prompt_tokens"):
                counts[LONG_PROMPT] += 1
                return None
            prompt = _last(prompt, self.max_prompt_tokens, tokenizer.start)
            cuts.append(CUT_PROMPT)
        if longest > self.max_tokens:
            if not self._may_cut(self.on_long_completion, row, f"completion of {longest} tokens", "max_tokens"):
                counts[LONG_COMPLETION] += 1
                return None
            completions = [ids[: self.max_tokens] for ids in completions]
            cuts.append(CUT_COMPLETION)
        if len(set(map(tuple, completions))) < len(completions):
            counts[EQUAL] += 1
            return None
        for cut in cuts:
            counts[cut] += 1
        return prompt, completions

    def _may_cut(self, on_long: OnLong, row: Feedback, what: str, limit: str) -> bool:
        if on_long is OnLong.error:
            setting = f"candidates.{limit}={getattr(self, limit)}"
            raise UntokenizableError(f"a {what}, over {setting}")
        return on_long is OnLong.truncate

    @property
    def _cuts(self) -> bool:
        """Whether completions may be equal only because they are cut."""
        return self.on_long_completion is OnLong.truncate

    def _nothing_left(self, feedback: Collection[Feedback], counts: dict[str, int], num_bad: int, first_bad: str) -> str:
        size = len(next(iter(feedback)).completions)
        left_out = {reason: counts[reason] for reason in (LONG_PROMPT, LONG_COMPLETION, EQUAL) if counts[reason]}
        left_out |= {reason: count for reason, count in counts.items() if reason.startswith(UNREAD[:6])}
        reasons = [f"{count} {reason}" for reason, count in left_out.items()]
        reasons += [f"{num_bad} {BAD}, such as {first_bad}"] if num_bad else []
        too_low = ["candidates.max_tokens"] * bool(counts[LONG_COMPLETION] or (counts[EQUAL] and self._cuts))
        too_low += ["candidates.max_prompt_tokens"] * bool(counts[LONG_PROMPT])
        ways = [f"raise {' or '.join(too_low)}"] if too_low else []
        if counts[EQUAL]:
            ways.append("choose a tokenizer that tells them apart, such as tokenizer=byte (a pretrained model has its own)")
        return "; ".join([f"of {len(feedback)} {noun(size)} none is left ({', '.join(reasons)})", *ways])


def _with_place(row: Feedback, error: Exception) -> str:
    """What is wrong with a row, with its file and line; of one that comes from no file, with its beginning."""
    return f"{row.where}: {error}" if row.where else f"{error}, in the row that begins {plain(row.prompt)[:60]!r}"


def _way_out(row: Feedback) -> str:
    return "; data.on_bad_row=skip leaves such rows out" if row.where else ""


def _last(ids: list[int], count: int, start: int | None) -> list[int]:
    """The last `count` ids, of which the first is the start token if the ids begin with it."""
    if ids[0] != start:
        return ids[-count:]
    return [start, *ids[len(ids) - count + 1 :]]


@dataclass
class _Rows:
    """Tokenised rows: their tokens in columns on disk, their labels as numbers in memory."""

    column: Callable[[], TokenColumn]
    columns: list[TokenColumn] = field(default_factory=list)
    """The prompts', then each candidate's."""
    confidence: array[float] = field(default_factory=lambda: array("f"))
    labels: dict[str, array[float]] = field(default_factory=dict)
    """Scores, margins or desirability: those that the first row has."""

    def add(self, row: Feedback, prompt: list[int], completions: list[list[int]]) -> None:
        labels = {"scores": row.scores, "margin": row.margin, "desirable": row.desirable}
        if not self.columns:
            self.columns = [self.column() for _ in range(1 + len(completions))]
            self.labels = {name: array("f") for name, value in labels.items() if value is not None}
        if 1 + len(completions) != len(self.columns):
            sizes = sorted({len(completions), len(self.columns) - 1})
            raise ValueError(f"every row of the data must have equally many completions, found rows with {sizes}")
        for name, value in labels.items():
            if (value is not None) != (name in self.labels):
                raise ValueError(f"some rows of the data have {name} and some have none: give it in all rows or in none")
            if value is not None:
                self.labels[name].extend(value if isinstance(value, tuple) else (float(value),))
        self.confidence.append(row.confidence)
        for column, ids in zip(self.columns, (prompt, *completions), strict=True):
            column.append(ids)

    def write(self, path: Path) -> None:
        prompts, *candidates = self.columns
        count = len(prompts.lengths)
        tensors: dict[str, Any] = {"ids": np.arange(count), "confidence": np.array(self.confidence, dtype=np.float32)}
        given = {name: np.array(values, dtype=np.float32) for name, values in self.labels.items()}
        if "scores" in given:
            tensors["scores"] = rearrange(given["scores"], "(b k) -> k b", b=count)
            if len(candidates) > 2:  # of a pair the data says itself who wins
                tensors["utilities"] = certain_utilities(torch.from_numpy(tensors["scores"])).numpy()
        if "margin" in given:
            tensors["margin"] = given["margin"]
        if "desirable" in given:
            tensors["desirable"] = rearrange(given["desirable"] > 0, "b -> 1 b")
        write_columns(path, prompts, candidates, tensors)
