"""Overlap of evaluation data with training data: how many rows, and how many prompts, are in both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dpo_lab.data.base import Corpus, Feedback
from dpo_lab.data.statistics import prompt_digest, row_digest


@dataclass
class Overlap:
    """Of so many rows, how many are trained on as they are (in whatever order), and of how many the prompt is."""

    rows: int
    trained_on: int
    prompts_trained_on: int

    def __str__(self) -> str:
        if not self.prompts_trained_on:
            return f"the run was trained on none of the {self.rows:,} rows, and on none of their prompts"
        return (
            f"the run was trained on {self.trained_on:,} of the {self.rows:,} rows, and on the prompts of "
            f"{self.prompts_trained_on:,}: the numbers are not of pairs that are new to it"
        )


def overlap(rows: Iterable[Feedback], corpus: Corpus, sampled: bool) -> Overlap:
    """With what the corpus has to train on: its own rows, or where completions were `sampled` its prompts alone."""
    prompts = {prompt_digest(prompt) for prompt in corpus.train_prompts}
    known = set() if sampled else {row_digest(row) for row in corpus.train}
    found = Overlap(0, 0, 0)
    for row in rows:
        found.rows += 1
        found.trained_on += row_digest(row) in known
        found.prompts_trained_on += prompt_digest(row.prompt) in prompts
    return found
