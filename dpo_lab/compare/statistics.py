"""What few seeds can tell: intervals, paired tests, and the price of asking many questions at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

LEVEL = 0.95
EXACT_UP_TO = 12
"""Pairs up to which every flip of signs is tried (4,096 at most); beyond, the p-value is a bootstrap's."""
RESAMPLES = 9_999


@dataclass
class Estimate:
    """Mean of n values, their standard deviation and the 95 % interval of the mean; None of each where n is too small."""

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """The interval is Student's: it assumes that the values are normal, and holds for two values as well as for many."""
    mean = statistics.fmean(values) if values else None
    if mean is None or len(values) < 2:
        return Estimate(len(values), mean, None, None, None)
    sd = statistics.stdev(values)
    reach = student_quantile((1 + LEVEL) / 2, len(values) - 1) * sd / math.sqrt(len(values))
    return Estimate(len(values), mean, sd, mean - reach, mean + reach)


def student_cdf(t: float, df: int) -> float:
    """P(T <= t) for whole degrees of freedom, a finite sum: Abramowitz and Stegun 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = df % 2
    total, term = 0.0, cosine if odd else 1.0
    for k in range(df // 2):
        total += term
        term *= cosine**2 * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    inside = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return 0.5 + inside / 2


@cache
def student_quantile(p: float, df: int) -> float:
    """The t >= 0 with P(T <= t) = p, for p in .5 to 1."""
    low, high = 0.0, 1.0
    while student_cdf(high, df) < p:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def student_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t test, None for fewer than two differences."""
    found = estimate(differences)
    if found.mean is None or found.sd is None:
        return None
    if found.sd == 0:
        return float(found.mean == 0)
    return 2 * student_cdf(-abs(found.mean) / found.sd * math.sqrt(found.n), found.n - 1)


def paired_p(differences: Sequence[float], seed: int = 0) -> float | None:
    """Two-sided p-value for a mean difference of 0, without assuming a normal; None for fewer than two differences.

    Up to 12 pairs the exact sign-flip test (Fisher 1935): the share of all 2^n choices of signs whose mean is at least as far
    from 0. It assumes that under the null a difference is as likely as its negative. Its smallest value is 2 / 2^n.
    Beyond, the share of bootstrap means of the centred differences that are as far (Efron and Tibshirani 1993, section 16.4).
    """
    found, n = np.asarray(differences, dtype=float), len(differences)
    if n < 2:
        return None
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        sums, seen = np.abs(signs @ found), abs(found.sum())
        return float((sums >= seen - 1e-9 * np.abs(found).sum()).mean())  # a tie is a tie in spite of rounding
    drawn = np.random.default_rng(seed).choice(found - found.mean(), size=(RESAMPLES, n))
    return float(1 + (np.abs(drawn.mean(axis=1)) >= abs(found.mean())).sum()) / (RESAMPLES + 1)


def smallest_p(n: int) -> float:
    """The smallest value that `paired_p` can have for n pairs."""
    return 2.0 / 2**n if n <= EXACT_UP_TO else 1 / (RESAMPLES + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, corrected for being several (Holm 1979): those below a level are all true with 1 - level confidence."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, so_far = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = so_far
    return corrected
