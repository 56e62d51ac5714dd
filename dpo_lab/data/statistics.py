"""What is odd about a set of feedback (repeated, contradictory, leaked rows), and its overlap with another set."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from dpo_lab.data.base import Corpus, Feedback
from dpo_lab.data.messages import TOOLS, Prompt, plain, transcript, written

EMPTY = "left out, empty completion"
IDENTICAL = "left out, identical completions"
EQUAL_SCORES = "left out, equal scores"
IN_EVAL = "left out, also held out"


def nothing_to_learn(row: Feedback) -> str | None:
    """The reason to leave a row out, if there is one."""
    if not all(map(written, row.completions)):
        return EMPTY
    if len(set(row.completions)) < len(row.completions):
        return IDENTICAL
    if len(row.completions) > 2 and row.scores is not None and len(set(row.scores)) == 1:
        return EQUAL_SCORES
    return None


def split_text(prompt: Prompt) -> str:
    """The text whose hash decides the split; of a conversation its beginning up to the first user's turn, without tools."""
    if isinstance(prompt, str):
        return prompt
    prompt = tuple(message for message in prompt if message.role != TOOLS)
    first = next((i for i, message in enumerate(prompt) if message.role == "user"), len(prompt) - 1)
    return transcript(prompt[: first + 1])


def text_digest(*texts: str) -> int:
    """A 64-bit digest of texts."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(f"{len(text)} ".encode() + text.encode())
    return int.from_bytes(digest.digest(), "big")


def prompt_digest(prompt: Prompt) -> int:
    return text_digest(plain(prompt))


def row_digest(row: Feedback) -> int:
    """A 64-bit digest of the prompt and its completions in any order."""
    return text_digest(plain(row.prompt), *sorted(map(written, row.completions)))


@dataclass
class FeedbackStatistics:
    """Counts over the rows that were added. Only a digest of each row is kept, not its text."""

    num_rows: int = 0
    prompts: set[int] = field(default_factory=set)
    """Digests of the different prompts."""
    openings: set[int] = field(default_factory=set)
    """Digests of what decides the split; two of them are enough to know that they differ."""
    num_repeated: int = 0
    """Rows that prefer what an earlier row of the same prompt and completions prefers."""
    num_contradictory: int = 0
    """Rows that prefer the opposite of what an earlier one prefers."""
    num_chosen_longer: int = 0
    """Pairs whose chosen side has more characters."""
    num_chosen_shorter: int = 0
    num_chosen_scored_lower: int = 0
    num_undesirable: int = 0
    _preferred: dict[int, int] = field(default_factory=dict)
    """By digest of a row: the preferences (1, 2, or both, 3) that rows of that prompt and completions have had."""

    @property
    def digests(self) -> Collection[int]:
        """Digests of all rows."""
        return self._preferred.keys()

    def add(self, row: Feedback) -> None:
        self.num_rows += 1
        self.prompts.add(prompt_digest(row.prompt))
        if len(self.openings) < 2:
            self.openings.add(text_digest(split_text(row.prompt)))
        digest, preference = row_digest(row), _preference(row)
        before = self._preferred.get(digest, 0)
        self.num_repeated += bool(before & preference)
        self.num_contradictory += bool(before & ~preference)
        self._preferred[digest] = before | preference
        self.num_undesirable += row.desirable is False
        if len(row.completions) == 2:
            chosen, rejected = (len(written(side)) for side in row.completions)
            self.num_chosen_longer += chosen > rejected
            self.num_chosen_shorter += chosen < rejected
            self.num_chosen_scored_lower += row.scores is not None and row.scores[0] < row.scores[1]


def _preference(row: Feedback) -> int:
    """Which of two opposite preferences the row has: 1 or 2. Of a ranking always 1."""
    if len(row.completions) == 1:
        return 1 if row.desirable else 2
    return 1 if len(row.completions) > 2 or written(row.completions[0]) < written(row.completions[1]) else 2


def data_warnings(noun: str, train: FeedbackStatistics, held_out: FeedbackStatistics) -> list[str]:
    """What is odd about the rows, in lines for the user."""
    warnings = []
    for side, statistics in (("to train on", train), ("held out", held_out)):
        for count, what in (
            (statistics.num_repeated, "repeat another one"),
            (statistics.num_contradictory, "contradict another one"),
            (statistics.num_chosen_scored_lower, "score the rejected side higher"),
        ):
            if count:
                warnings.append(f"of the {statistics.num_rows:,} {noun} {side}, {count:,} {what}")
    shared = len(train.prompts & held_out.prompts)
    if shared:
        warnings.append(f"{shared:,} of the {len(held_out.prompts):,} prompts held out are also trained on")
    different = train.num_chosen_longer + train.num_chosen_shorter
    if different:
        share = train.num_chosen_longer / different
        warnings.append(f"the chosen side is the longer one in {share:.0%} of the pairs to train on that differ in length")
    return warnings


@dataclass
class Overlap:
    """How many of some evaluation rows, and of how many of them the prompt, are also trained on."""

    rows: int
    trained_on: int
    """With their completions in any order."""
    prompts_trained_on: int

    def __str__(self) -> str:
        if not self.prompts_trained_on:
            return f"the run was trained on none of the {self.rows:,} rows, and on none of their prompts"
        return (
            f"the run was trained on {self.trained_on:,} of the {self.rows:,} rows, and on the prompts of "
            f"{self.prompts_trained_on:,}: the numbers are not of pairs that are new to it"
        )


def overlap(rows: Iterable[Feedback], corpus: Corpus, sampled: bool) -> Overlap:
    """Overlap with the corpus's training rows, or where completions were `sampled` with its training prompts alone."""
    prompts = {prompt_digest(prompt) for prompt in corpus.train_prompts}
    trained_on = set() if sampled else {row_digest(row) for row in corpus.train}
    total = Overlap(0, 0, 0)
    for row in rows:
        total.rows += 1
        total.trained_on += row_digest(row) in trained_on
        total.prompts_trained_on += prompt_digest(row.prompt) in prompts
    return total
