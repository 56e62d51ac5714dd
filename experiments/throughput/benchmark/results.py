"""Measurements as rows: one for each contender on each case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_lab.records import CandidateBatch
from experiments.throughput.benchmark.cases import Case
from experiments.throughput.benchmark.timing import Timed


def row_of(
    case: Case,
    batch: CandidateBatch,
    name: str,
    timed: Mapping[str, Timed],
    share_of_peak: float,
    memory: int | None,
) -> dict[str, Any]:
    """The row of one contender; `speedup_over` are ratios of times, over each other contender.

    `tokens_per_s` counts each prompt once. `share_of_peak`: a step's useful operations, over those of the fastest matrix
    product in a second.
    """
    seconds = timed[name].median
    return {
        "case": case.name,
        "prompt": case.prompt,
        "completion": case.completion,
        "vocab": case.vocab,
        "pairs": case.pairs,
        "contender": name,
        "s_per_pair": seconds / case.pairs,
        "cpu_s_per_pair": sorted(timed[name].cpu_seconds)[len(timed[name].cpu_seconds) // 2] / case.pairs,
        "tokens_per_s": int(batch.num_tokens) / seconds,
        "share_of_peak": share_of_peak / seconds,
        "memory_mb": None if memory is None else memory / 1e6,
        "repeats": len(timed[name].seconds),
        "speedup_over": {other: timed[name].speedup_over(timed[other]) for other in timed if other != name},
    }


def table_of(rows: Sequence[Mapping[str, Any]], baseline: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table for the reader: speedup is over the baseline, memory above the models."""
    columns = ["case", "contender", "ms/pair", "speedup", "tokens/s", "of peak", "MB"]
    lines = []
    for row in rows:
        speedup = 1.0 if row["contender"] == baseline else row["speedup_over"].get(baseline)
        lines.append(
            [
                row["case"],
                row["contender"],
                f"{1000 * row['s_per_pair']:.0f}" if row["s_per_pair"] >= 0.01 else f"{1000 * row['s_per_pair']:.2g}",
                "" if speedup is None else f"{speedup:.2f}",
                f"{row['tokens_per_s']:,.0f}",
                f"{row['share_of_peak']:.0%}",
                "" if row["memory_mb"] is None else f"{row['memory_mb']:,.0f}",
            ]
        )
    return columns, lines
