"""Sums of losses."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import losses.oracles
from losses.oracles.base import Oracle, Prompt

from dpo_lab.losses import LOSSES


def mix(loss: Any, prompts: list[Prompt]) -> list[float]:
    families = [
        importlib.import_module(f"losses.oracles.{found.name}") for found in pkgutil.iter_modules(losses.oracles.__path__)
    ]
    known = {name: oracle for family in families for name, oracle in getattr(family, "ORACLES", {}).items()}
    total = [0.0] * len(prompts)
    for part in loss.parts:
        settings = {name: value for name, value in part.items() if name not in ("name", "weight")}
        own = LOSSES[part["name"]](**settings)
        for row, (value, prompt) in enumerate(zip(known[part["name"]](own, prompts), prompts, strict=True)):
            chosen = prompt.candidates[0].policy
            total[row] += part.get("weight", 1.0) * (value - own.nll * sum(chosen) / len(chosen))
    return total


ORACLES: dict[str, Oracle] = {"mix": mix}

NUMBERS: list[tuple[str, dict[str, Any], float]] = [
    # .8 * log(1 + e^-.15) for dpo; .2 * 2 * log(1 + e^-.075) for bco, rewards .1 and -.05 around .025; 1.5 for sft
    ("mix", {}, 2.259305694562344),
    ("mix", {"parts": [{"name": "dpo", "beta": 1.0}]}, 0.2014132779827524),  # a gap of 1.5: log(1 + e^-1.5)
    # twice the NLL of 1.5 per token, and slic's .65 of which .15 is its own nll
    ("mix", {"parts": [{"name": "sft", "weight": 2}, {"name": "slic", "label_smoothing": 0.25}]}, 3.65),
]
