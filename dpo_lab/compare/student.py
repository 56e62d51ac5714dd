"""Student's t distribution, for degrees of freedom that need not be whole."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

TERMS = 500
STEPS = 100
SMALL = 1e-300
NORMAL_BEYOND = 1e7
"""Degrees of freedom beyond which the normal distribution is the same to eight digits."""


def student_cdf(t: float, df: float) -> float:
    """P(T <= t)."""
    if df > NORMAL_BEYOND:
        return 0.5 * math.erfc(-t / math.sqrt(2))
    if t * t < df:
        return 0.5 + math.copysign(0.5 * _incomplete_beta(0.5, df / 2, t * t / (df + t * t)), t)
    tail = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + t * t))
    return tail if t < 0 else 1 - tail


@lru_cache(maxsize=4096)
def student_quantile(p: float, df: float) -> float:
    """The t >= 0 with P(T <= t) = p, for p in .5 to 1: Newton's steps from the normal's, which never overshoot."""
    t = NormalDist().inv_cdf(p)
    if df > NORMAL_BEYOND:
        return t
    log_scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    for _ in range(STEPS):
        density = math.exp(log_scale - (df + 1) / 2 * math.log1p(t * t / df))
        step = (p - student_cdf(t, df)) / density
        t += step
        if step < 1e-10 * (1 + t):
            break
    return t


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised I_x(a, b): DLMF 8.17.22, on the side where its fraction converges fast."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) / (a * _fraction(a, b, x))
    return 1 - math.exp(log_front) / (b * _fraction(b, a, 1 - x))


def _fraction(a: float, b: float, x: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) by Lentz's method."""
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, TERMS):
        m, odd = divmod(term, 2)
        if odd:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + step * d or SMALL)
        c = 1 + step / c or SMALL
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
