"""What few seeds can tell: tests of a mean difference of 0, and the price of asking many questions at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import stdtr

from dpo_lab.compare.intervals import EQUAL, SharedError, half_width, variance_parts

EXACT_UP_TO = 12
"""Pairs up to which every flip of signs is tried (4,096 at most); beyond, FLIPS of them are drawn at random."""
FLIPS = 9_999


def t_test_p(differences: Sequence[float], shared: SharedError | None = None) -> float | None:
    """Two-sided p-value of the paired t test, whose variance also holds what the evaluation's error adds.

    None for fewer than two differences, and where no more than half as many numbers occur among them: they are then far from
    normal (of three equally frequent ones, 8 differences reject a true null in 8 % of cases at .05), or nothing says at all
    how far they vary. Of differences that are all 0 it is 1.
    """
    if len(differences) < 2:
        return None
    parts, seen = variance_parts(differences, shared), abs(statistics.fmean(differences))
    error = math.sqrt(sum(variance for variance, _ in parts))
    if not any(differences):
        return 1.0
    if error <= EQUAL * seen or len(set(differences)) <= len(differences) / 2:
        return None
    if len(parts) == 1 or not parts[1][0]:
        return 2 * float(stdtr(parts[0][1], -seen / error))
    low, high = 1e-12, 1.0
    for _ in range(24):  # the p at which the interval would end at 0, to six digits
        middle = math.sqrt(low * high)
        low, high = (low, middle) if half_width(parts, middle) < seen else (middle, high)
    return high


def sign_flip_p(differences: Sequence[float], shared: SharedError | None = None, seed: int = 0) -> float | None:
    """Two-sided p-value for a mean difference of 0, without assuming a normal; None for fewer than two differences.

    The sign-flip test (Fisher 1935): the share of choices of signs whose mean is at least as far from 0. It assumes that under
    the null a difference is as likely as its negative. Up to 12 pairs all 2^n choices are counted, so that the smallest value
    is 2 / 2^n; beyond, 9,999 are drawn and the choice that was seen is counted with them (Phipson and Smyth 2010).

    Flips know nothing of an error that all seeds share. Where it is known, a normal error of its size is added to each flipped
    mean, and the larger of both p-values holds.
    """
    values, n = np.asarray(differences, dtype=float), len(differences)
    if n < 2:
        return None
    exact = n <= EXACT_UP_TO
    sums, seen = np.abs(_signs(n, seed) @ values), abs(values.sum())
    far = (sums >= seen - 1e-9 * np.abs(values).sum()).astype(float)  # a tie is a tie in spite of rounding
    p = _share(far, exact)
    if shared is not None and shared.variance > 0:
        scale = n * math.sqrt(2 * shared.variance)
        tails = [0.5 * (math.erfc((seen - one) / scale) + math.erfc((seen + one) / scale)) for one in sums.tolist()]
        p = max(p, _share(np.asarray(tails), exact))
    return p


@lru_cache(maxsize=32)
def _signs(n: int, seed: int) -> np.ndarray:
    """All 2^n choices of signs, or FLIPS of them at random."""
    if n <= EXACT_UP_TO:
        return 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    return 1.0 - 2.0 * np.random.default_rng(seed).integers(0, 2, size=(FLIPS, n))


def _share(far: np.ndarray, exact: bool) -> float:
    return float(far.mean()) if exact else float(1 + far.sum()) / (len(far) + 1)


def smallest_p(n: int) -> float:
    """The smallest value that `sign_flip_p` can have for n pairs."""
    return 2.0 / 2**n if n <= EXACT_UP_TO else 1 / (FLIPS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, corrected for being several (Holm 1979): those below a level are all true with 1 - level confidence."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, so_far = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = so_far
    return corrected
