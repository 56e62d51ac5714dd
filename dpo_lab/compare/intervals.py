"""The 95 % interval of a mean over runs: what differs from seed to seed, and the evaluation's error that all seeds share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scipy.special import stdtrit

LEVEL = 0.95
EQUAL = 1e-9
"""Values are equal whose standard deviation is so small a part of their mean: it is rounding."""
SHARES = ("win_rate", "rewards/accuracies", "label_ties", "distinct_2")
AT_LEAST_0 = ("kl", "entropy", "grad_norm", "pairs_per_s", "tokens_per_s", "perplexity")


class Covers(StrEnum):
    """What an interval allows for."""

    nothing = ""
    seeds = "seeds"
    evaluation = "evaluation"
    both = "seeds and evaluation"


@dataclass
class SharedError:
    """The part of the evaluation's variance that all runs share, so that it does not shrink with more seeds.

    `bound`: no more than an upper bound, for want of the runs' values for each prompt.
    """

    variance: float
    df: float = math.inf
    bound: bool = False


@dataclass
class Bounds:
    """The smallest and the largest value that a quantity can have."""

    low: float = -math.inf
    high: float = math.inf


SHARE = Bounds(0.0, 1.0)


@dataclass
class Estimate:
    """Mean of n values, their standard deviation, the 95 % interval of the mean and its standard error.

    None of each where n is too small, and no interval where all values are equal: nothing then says how far they vary.
    `covers` says what it allows for.
    """

    n: int
    mean: float | None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    covers: Covers = Covers.nothing
    bound: bool = False


def variance_parts(values: Sequence[float], shared: SharedError | None) -> list[tuple[float, float]]:
    """The parts that add up to the variance of a mean, each with its degrees of freedom.

    sd^2 / n, which already holds the part of the evaluation's error that is each run's own, and what seeds share of it.
    """
    parts = [(statistics.variance(values) / len(values), len(values) - 1.0)] if len(values) > 1 else []
    return parts + ([] if shared is None else [(shared.variance, shared.df)])


def half_width(parts: Sequence[tuple[float, float]], p: float) -> float:
    """The half-width of the interval that misses the truth with probability p, each part with its own Student quantile.

    Banerjee 1960, Sankhya 22: never too short. (Welch and Satterthwaite's joint degrees of freedom hold 87 to 94 % for two
    or three seeds.)
    """
    return math.sqrt(sum(float(stdtrit(df, 1 - p / 2)) ** 2 * variance for variance, df in parts if variance > 0))


def estimate(values: Sequence[float], shared: SharedError | None = None, bounds: Bounds | None = None) -> Estimate:
    """The mean over runs with its interval; for one value only the evaluation's error is known (`shared` is then all of it)."""
    mean = statistics.fmean(values) if values else None
    parts = variance_parts(values, shared)
    if mean is None or not parts:
        return Estimate(len(values), mean)
    n, se = len(values), math.sqrt(sum(variance for variance, _ in parts))
    covers = Covers.evaluation if n == 1 else Covers.seeds if shared is None else Covers.both
    result = Estimate(n, mean, statistics.stdev(values) if n > 1 else None, se=se, covers=covers)
    result.bound = shared is not None and shared.bound
    prompts = math.inf if shared is None else shared.df + 1
    if bounds == SHARE and mean in (0, 1):
        result.low, result.high = _at_bound(mean, prompts)
    elif se > EQUAL * abs(mean):
        result.low, result.high = _interval(mean, half_width(parts, 1 - LEVEL), bounds or Bounds())
    return result


def _interval(mean: float, far: float, bounds: Bounds) -> tuple[float, float]:
    """Of a share, symmetric in its log-odds (the error carried over to first order); of others, ended at the bound, which an
    estimate itself may lie beyond: that of a small KL can be negative.

    A logarithm would keep a KL above 0 too, but of two seeds its interval can reach e^12 times as far.
    """
    if bounds != SHARE:
        low, high = (min(max(end, bounds.low), bounds.high) for end in (mean - far, mean + far))
        return low, high
    odds, far = math.log(mean / (1 - mean)), far / (mean * (1 - mean))
    return _share(odds - far), _share(odds + far)


def _at_bound(mean: float, prompts: float) -> tuple[float | None, float | None]:
    """The interval of a share that is 0 or 1 in all prompts: the exact binomial's (Clopper and Pearson 1934).

    None where nobody knows how many prompts there were.
    """
    if not math.isfinite(prompts):
        return None, None
    far = ((1 - LEVEL) / 2) ** (1 / prompts)
    return (far, 1.0) if mean == 1 else (0.0, 1 - far)


def _share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > 0 else math.exp(max(odds, -700.0)) / (1 + math.exp(max(odds, -700.0)))


def bounds_of(metric: str) -> Bounds:
    """The bounds of a metric by its name, which may end in ' at KL x'."""
    name = metric.partition(" at KL ")[0].removeprefix("eval/")
    if name in SHARES or name.startswith("positive/"):
        return SHARE
    return Bounds(0.0) if name in AT_LEAST_0 or name.startswith("length/") else Bounds()


def bounds_of_difference(metric: str) -> Bounds:
    """The bounds of a difference: of two shares, -1 and 1."""
    own = bounds_of(metric)
    return Bounds(own.low - own.high, own.high - own.low) if math.isfinite(own.high) else Bounds()
