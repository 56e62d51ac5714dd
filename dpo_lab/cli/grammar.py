"""Hydra's override grammar, with geometric points: loss.beta='logspace(0.01,1,5)'."""

# No `from __future__ import annotations`: the grammar checks arguments by annotations that are types, not strings.

import math
import re
import shlex
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import OverrideParseException


def parsed(words: Sequence[str], loader: ConfigLoader | None = None) -> list[Override]:
    """Override words by Hydra's grammar and `logspace`. Raises ValueError for what it cannot read.

    With the loader of the configuration, loss='glob(*)' has a value for every option of the group.
    """
    functions = create_functions()
    functions.register("logspace", logspace)
    try:
        return OverridesParser(functions, loader).parse_overrides(list(words))
    except OverrideParseException as error:
        raise ValueError(unreadable(error)) from error


def spelled_out(words: Sequence[str]) -> list[str]:
    """The same words for a parser that does not know `logspace`: its values as a plain list of choices."""
    return [
        f"{override.get_key_element()}={','.join(override.sweep_string_iterator())}" if "logspace(" in word else word
        for word, override in zip(words, parsed(words), strict=True)
    ]


def renamed(word: str) -> str:
    """The word for the setting `accept` where it is written as store.accept=KIND; a single value is a list of one."""
    name, _, value = word.partition("=")
    if name != "store.accept":
        return word
    return f"accept={value}" if value.startswith("[") else f"accept=[{value}]"


def key_of(word: str) -> str:
    """The setting or group that an override word names."""
    return word.lstrip("+~").partition("=")[0]


def of_hydra(word: str) -> bool:
    """Whether the word sets one of Hydra's own settings: how jobs are run."""
    return key_of(word).startswith(("hydra.", "hydra/"))


def quoted(text: str) -> str:
    """The text as a quoted value of the grammar, in which only quotes, and backslashes before them, need a backslash."""
    mark = "'" if '"' in text and "'" not in text else '"'
    return mark + re.sub(rf"(\\*)({mark}|\Z)", lambda found: found[1] * 2 + ("\\" + mark if found[2] else ""), text) + mark


def unreadable(error: OverrideParseException) -> str:
    """What is wrong with the grammar of an override word, and how this very word is quoted."""
    why = next((line for line in error.message.splitlines() if "Error parsing override" not in line), error.message)
    word = str(error.override)
    if " while evaluating " in why:
        return f"cannot read '{word}': {why.partition(': ')[2]}"
    if "Exception" in why:  # the name of the lexer's own, and the word once more
        why = "the grammar of settings has no place for one of its characters"
    key, given, value = word.partition("=")
    as_it_is = shlex.quote(f"{key}={quoted(value)}")
    advice = f"if the value is meant as it stands, with quotes around it: {as_it_is}" if given else "write key=value"
    return f"cannot read '{word}': {why}; {advice}"


def logspace(start: int | float, stop: int | float, num: int) -> ChoiceSweep:
    """`num` values from `start` to `stop`, each the same multiple of the one before: logspace(0.01,1,5) is .01 .0316 .1 .316 1.

    The ends are as they are given. Those between have three digits, or where neighbours are close together as many as it takes
    for a value to move by less than a twentieth of its distance to the next.
    """
    if not (0 < start < math.inf and 0 < stop < math.inf):
        raise ValueError(f"logspace(start,stop,num) goes between two numbers > 0, got {start} and {stop}")
    if start == stop or num < 2:
        raise ValueError(f"logspace(start,stop,num) needs two different ends and at least 2 values, got {start}, {stop}, {num}")
    step = math.log(stop / start) / (num - 1)
    digits = max(3, math.ceil(1 + math.log10(0.5 / (0.05 * abs(step)))))
    between = [float(f"{start * math.exp(step * i):.{digits}g}") for i in range(1, num - 1)]
    return ChoiceSweep(list=[start, *(int(x) if x == int(x) else x for x in between), stop])
