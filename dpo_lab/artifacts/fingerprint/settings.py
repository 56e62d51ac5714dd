"""Which settings decide a run's numbers: what makes two runs the same run, or repetitions of one another.

The one definition of it, for sweeps, resuming, comparing and TensorBoard's groups.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

Scalar = float | int | bool | str

HOUSEKEEPING = frozenset(
    {
        *("name", "runs", "store", "resume", "user_modules", "vary"),
        *("trainer.checkpoint_every", "trainer.keep_last", "trainer.keep_every", "trainer.preflight"),
        *("base.trainer.preflight", "evaluation.num_shown"),
    }
)
"""Settings that never change a number: where things are put, how often they are saved, what is printed. (`vary` sets seeds,
which count themselves.)
"""

ROUNDING = frozenset(
    {
        *("compute.device", "compute.threads", "compute.workers", "compute.layout", "compute.head_portion"),
        *("compute.checkpointing", "compute.determinism", "compute.compile"),
        *("trainer.micro_batch_size", "trainer.micro_batch_tokens"),
        *("base.trainer.micro_batch_size", "base.trainer.micro_batch_tokens"),
    }
)
"""Settings that change the order in which numbers are added, and so their last bits. (`compute.precision` changes more.)"""


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings with their dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def scalar_settings(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """A nested config as dotted names and scalars: None is left out, a list becomes JSON, anything else its text."""
    return {name: _scalar(value) for name, value in flat(config) if value is not None}


def _scalar(value: Any) -> Scalar:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool | str) or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    return json.dumps(value, default=str) if isinstance(value, list | tuple) else str(value)


def is_seed(setting: str) -> bool:
    """Whether a dotted setting is a seed, or says what a seed varies."""
    return setting.rpartition(".")[2] == "seed" or setting == "vary"


def decisive(settings: Mapping[str, Any], seeds: bool = False) -> dict[str, Any]:
    """Those of the flat, dotted `settings` that decide a run's numbers up to rounding; the seeds only if asked for.

    Runs that agree in them are repetitions of one experiment.
    """
    left_out = HOUSEKEEPING | ROUNDING
    return {key: value for key, value in settings.items() if key not in left_out and (seeds or not is_seed(key))}


def group_key(settings: Mapping[str, Any], code: Mapping[str, str], versions: Mapping[str, str | None]) -> str:
    """16 hexadecimal digits that repetitions of one experiment share: settings up to seeds, code, versions of libraries."""
    facts = [decisive(settings), dict(code), dict(versions)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
