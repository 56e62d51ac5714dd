"""Text that spells special tokens: characters that look like a token and are none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|endoftext|>",
)
"""What chat templates of widespread models put between turns."""


def marked(pieces: Sequence[str], special: Sequence[bool], texts: re.Pattern[str]) -> list[str]:
    """The pieces of tokens, with a backslash before each match of `texts` in a run of those that are not `special`."""
    result = list(pieces)
    for is_special, group in groupby(range(len(pieces)), key=lambda i: special[i]):
        if is_special:
            continue
        places, first = list(group), 0
        starts = [found.start() for found in texts.finditer("".join(pieces[i] for i in places))]
        for i in places:
            here = [start - first for start in starts if first <= start < first + len(pieces[i])]
            for start in reversed(here):
                result[i] = f"{result[i][:start]}\\{result[i][start:]}"
            first += len(pieces[i])
    return result
