"""Completions of the policies to the same prompts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from dpo_lab.compare.comparison import Comparison

PROMPTS = 8
SEARCHED = 200
"""Lines of a samples.jsonl in which the prompts are looked for: of a thousand runs, all of them would take a while."""


def samples_of(comparison: Comparison) -> list[dict[str, Any]]:
    """For each of the first prompts that all settings have, the reference's completion and that of each setting's first run."""
    written = {}
    for group in comparison.groups:
        run = min(group.runs, key=lambda run: str(run.facts.get("seed")))
        rows = _first_rows(run.path / "samples.jsonl")
        if rows:
            written[group.label] = rows
    if not written:
        return []
    common = set.intersection(*(set(rows) for rows in written.values()))
    prompts = [prompt for prompt in next(iter(written.values())) if prompt in common][:PROMPTS]
    return [{"prompt": prompt, "cards": _cards(prompt, written)} for prompt in prompts]


def _cards(prompt: str, written: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    first = next(iter(written.values()))[prompt]
    cards = [_card("reference", first, "reference")] if "reference" in first else []
    return cards + [_card(label, rows[prompt], "policy") for label, rows in written.items()]


def _card(who: str, row: dict[str, Any], side: str) -> dict[str, Any]:
    reward = row.get(f"reward/{side}")
    text = str(row.get(side, "")).encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written
    return {"who": who, "text": text, "reward": reward if isinstance(reward, int | float) else None}


def _first_rows(file: Path) -> dict[str, dict[str, Any]]:
    """By prompt, its first row in samples.jsonl; a line that is torn or no sample is skipped."""
    first_rows: dict[str, dict[str, Any]] = {}
    if not file.is_file():
        return first_rows
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in itertools.islice(lines, SEARCHED):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("prompt"), str) and "policy" in row:
                first_rows.setdefault(row["prompt"].encode("utf-8", "replace").decode(), row)
    return first_rows
