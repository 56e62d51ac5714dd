"""How often each test that `compare` prints rejects a null that is true."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dpo_lab.compare.influence import influence, shared_error
from dpo_lab.compare.intervals import SharedError
from dpo_lab.compare.significance import holm, sign_flip_p, t_test_p

COMPARISONS = 29
LEVELS = {".05": 0.05, ".05 / 29": 0.05 / COMPARISONS}
PROMPTS = 40
SIZES = range(3, 31)
FAMILIES = (3, 8, 11, 12, 13, 20, 30)
Draw = np.random.Generator

KINDS: dict[str, Callable[[Draw, int], np.ndarray]] = {
    "normal": lambda draw, n: draw.normal(size=n),
    "skewed": lambda draw, n: draw.lognormal(size=n) - draw.lognormal(size=n),
    "discrete": lambda draw, n: draw.integers(-1, 2, size=n).astype(float),
}
"""Differences of two settings that are the same: with normal, long-tailed and three-valued numbers."""
LOPSIDED = "lopsided"
"""Differences of mean 0 that are not as often above it by some amount as below: no case of two equal settings."""
SHARED = "shared error"
"""Two settings whose difference on these prompts is not 0, though over all prompts it is."""


def tests_of(draw: Draw, kind: str, n: int) -> dict[str, float | None]:
    """The p-values of n differences without a true effect."""
    shared = None
    if kind == SHARED:
        differences, shared = _on_shared_prompts(draw, n)
    elif kind == LOPSIDED:
        differences = (draw.exponential(size=n) - 1).tolist()
    else:
        differences = KINDS[kind](draw, n).tolist()
    return {"sign flips": sign_flip_p(differences, shared), "paired t": t_test_p(differences, shared)}


def _on_shared_prompts(draw: Draw, n: int) -> tuple[list[float], SharedError]:
    """Seeds, prompts and samples each add a part; the prompts' is as large as the mean of the samples'."""
    table = 0.05 * draw.normal(size=(n, 1)) + draw.normal(size=(1, PROMPTS)) + draw.normal(size=(n, PROMPTS))
    found = []
    for row in table:
        rows = [{"prompt": str(i), "r": value} for i, value in enumerate(row.tolist())]
        found.append(influence(rows, "r", {"r": float(row.mean())}))
    return table.mean(axis=1).tolist(), shared_error([each for each in found if each is not None])


def rejections(times: int, sizes: range | tuple[int, ...] = SIZES, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A row for each kind of differences, number of pairs, test and level: how often of so many times it rejects."""
    for kind in (*KINDS, LOPSIDED, SHARED):
        for n in sizes:
            draw = np.random.default_rng([seed, n])
            many = times // 10 if kind == SHARED else times  # they take as much longer
            found = [tests_of(draw, kind, n) for _ in range(many)]
            for test in found[0]:
                for name, level in LEVELS.items():
                    count = sum(p is not None and p <= level for p in (each[test] for each in found))
                    yield {"kind": kind, "n": n, "test": test, "level": name, "times": many, "rejected": count}


def families(times: int, sizes: tuple[int, ...] = FAMILIES, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The same of 29 settings compared with one baseline, corrected by Holm: how often any of them is rejected at .05."""
    for n in sizes:
        draw = np.random.default_rng([seed, n])
        counts = {"sign flips": 0, "paired t": 0}
        for _ in range(times):
            differences = (draw.normal(size=(COMPARISONS, n)) - draw.normal(size=n)).tolist()
            for test, function in (("sign flips", sign_flip_p), ("paired t", t_test_p)):
                p_values = [1.0 if (p := function(each)) is None else p for each in differences]
                counts[test] += min(holm(p_values)) <= 0.05
        for test, count in counts.items():
            yield {"kind": "29 settings, Holm", "n": n, "test": test, "level": ".05", "times": times, "rejected": count}
