"""Where a turn ends: the tokens that a chat template and a model's generation settings end the assistant's words with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import takewhile

from dpo_lab.data.messages import ASSISTANT, Message

Layout = Callable[[Sequence[Message]], list[int]]
"""A conversation -> its ids."""
ASKED = Message("user", "who?")
REPLIES = Message(ASSISTANT, "one"), Message(ASSISTANT, "42")


def turn_end(layout: Layout, known: Collection[int], special: Collection[int], added: Collection[int]) -> int | None:
    """The token that ends the assistant's turns, where it is none of the known ones; None, too, where no token does.

    It is the first special token (or else added one) behind a reply, wherever the turn stands. What comes behind it,
    as the header of the next turn, or an end of the whole conversation, does not count.
    """
    try:
        last = _behind([layout([ASKED, reply]) for reply in REPLIES])
    except ValueError:  # a template that refuses this; it may take the user's
        return None
    try:
        within = _behind([layout([ASKED, reply, ASKED]) for reply in REPLIES])
    except ValueError:
        within = last
    for kind in (special, added):
        marks = [[i for i in ids if i in kind] for ids in (last, within)]
        ends = [i for i, _ in takewhile(lambda two: two[0] == two[1], zip(*marks, strict=False))] or marks[0]
        if any(i in known for i in ends):
            return None
        if ends:
            return ends[0]
    return None


def _behind(rows: Sequence[list[int]]) -> list[int]:
    """The last ids that all rows share."""
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*map(reversed, rows), strict=False))
    return [column[0] for column in shared][::-1]
