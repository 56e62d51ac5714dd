"""Words of the command line whose value is a path or a prompt, taken as they are written; and how to quote any other value.

Hydra's grammar reads = ( [ { , ~ quotes and letters outside ASCII as its own, or not at all.
"""

from __future__ import annotations

import os

from hydra.core.override_parser.types import QuotedString

from dpo_lab.cli.grammar import parsed, quoted

PATHS = ("path", "eval_path", "gguf_file")
"""Last names of settings that are paths, in whatever group."""
PLACES = ("runs", "store", "resume", "name", "runner.pairs", "runner.to")
"""Further settings that are paths."""
PROMPT = "runner.prompt"


def as_written(word: str, multirun: bool) -> str:
    """The word in Hydra's grammar for a path or a prompt that is written without regard to it; other words as they are.

    What the grammar does read keeps its meaning there: a list of paths, a quoted value, `${...}`, several values for a sweep.
    """
    key, given, value = word.partition("=")
    name = key.lstrip("+")
    is_path = name in PLACES or name.rpartition(".")[2] in PATHS
    if not given or not value or key.startswith("~") or "${" in value or not (is_path or name == PROMPT):
        return word
    return f"{key}={(_path if is_path else _prompt)(value, multirun)}"


def _path(value: str, multirun: bool) -> str:
    full = os.path.expanduser(value)
    literal = quoted(full)
    if os.path.exists(full):
        return literal
    try:
        (override,) = parsed([f"path={value}"])
    except ValueError:
        brackets = value.startswith("[") and value.endswith("]")
        if brackets or (multirun and "," in value):
            items = (value[1:-1] if brackets else value).split(",")
            listed = ",".join(_path(item.strip(), False) for item in items)
            return f"[{listed}]" if brackets else listed
        return literal
    number = isinstance(override.value(), int | float) and not override.is_sweep_override()
    return literal if number else value


def _prompt(value: str, multirun: bool) -> str:
    try:
        (override,) = parsed([f"prompt={value}"])
    except ValueError:
        return quoted(value)
    read = override._value
    escaped = isinstance(read, str) and "\\" in value
    if isinstance(read, QuotedString) or escaped or (multirun and override.is_sweep_override()):
        return value
    return quoted(value)
