"""What is odd about a set of feedback: told before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

from dpo_lab.data.base import Feedback
from dpo_lab.data.messages import Message, Prompt, plain, transcript

EMPTY = "left out, empty completion"
IDENTICAL = "left out, identical completions"
EQUAL_SCORES = "left out, equal scores"
IN_EVAL = "left out, also held out"


def digest(*texts: str) -> int:
    """64 bits that stand for the texts."""
    found = hashlib.blake2b(digest_size=8)
    for text in texts:
        found.update(f"{len(text)} ".encode() + text.encode())
    return int.from_bytes(found.digest(), "big")


def prompt_digest(prompt: Prompt) -> int:
    return digest(plain(prompt))


def opening(prompt: Prompt) -> str:
    """What the split goes by: of a conversation its beginning up to the first user's turn, so that all of it is on one side."""
    if isinstance(prompt, str):
        return prompt
    first = next((i for i, message in enumerate(prompt) if message.role == "user"), len(prompt) - 1)
    return transcript([Message(message.role, message.content) for message in prompt[: first + 1]])


def nothing_to_learn(row: Feedback) -> str | None:
    """Why a row is left out, if it is."""
    if not all(row.completions):
        return EMPTY
    if len(set(row.completions)) < len(row.completions):
        return IDENTICAL
    if len(row.completions) > 2 and row.scores is not None and len(set(row.scores)) == 1:
        return EQUAL_SCORES
    return None


def row_digest(row: Feedback) -> int:
    """64 bits that stand for the prompt and its completions in any order."""
    return digest(plain(row.prompt), *sorted(row.completions))


@dataclass
class Check:
    """Facts about the rows that were added. Of each row 64 bits are kept, not its text."""

    rows: int = 0
    prompts: set[int] = field(default_factory=set)
    again: int = 0
    """Rows that say what an earlier one says of the same prompt and completions."""
    contradictory: int = 0
    """Rows that say the opposite of an earlier one."""
    longer: int = 0
    """Pairs whose chosen side has more characters."""
    shorter: int = 0
    worse: int = 0
    """Pairs whose rejected side has the higher score."""
    undesirable: int = 0
    _stances: dict[int, int] = field(default_factory=dict)

    @property
    def keys(self) -> Collection[int]:
        """Of each row the bits that stand for it in any order."""
        return self._stances.keys()

    def add(self, row: Feedback) -> None:
        self.rows += 1
        self.prompts.add(prompt_digest(row.prompt))
        key, stance = row_digest(row), _stance(row)
        before = self._stances.get(key, 0)
        self.again += bool(before & stance)
        self.contradictory += bool(before & ~stance)
        self._stances[key] = before | stance
        self.undesirable += row.desirable is False
        if len(row.completions) == 2:
            chosen, rejected = map(len, row.completions)
            self.longer += chosen > rejected
            self.shorter += chosen < rejected
            self.worse += row.scores is not None and row.scores[0] < row.scores[1]


def _stance(row: Feedback) -> int:
    """Which of two opposite things the row says of its completions: 1 or 2. Of a ranking always 1."""
    if len(row.completions) == 1:
        return 1 if row.desirable else 2
    return 1 if len(row.completions) > 2 or row.completions[0] < row.completions[1] else 2


def remarks(noun: str, train: Check, held_out: Check) -> list[str]:
    """What is odd about the rows, in lines for the user."""
    found = []
    for side, check in (("to train on", train), ("held out", held_out)):
        for count, what in (
            (check.again, "repeat another one"),
            (check.contradictory, "contradict another one"),
            (check.worse, "score the rejected side higher"),
        ):
            if count:
                found.append(f"of the {check.rows:,} {noun} {side}, {count:,} {what}")
    shared = len(train.prompts & held_out.prompts)
    if shared:
        found.append(f"{shared:,} of the {len(held_out.prompts):,} prompts held out are also trained on")
    if train.longer + train.shorter:
        share = train.longer / (train.longer + train.shorter)
        found.append(f"the chosen side is the longer one in {share:.0%} of the pairs to train on that differ in length")
    return found
