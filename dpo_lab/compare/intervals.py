"""The 95 % interval of a mean over runs: what differs from seed to seed, and the evaluation's error that all seeds share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dpo_lab.compare.student import student_quantile

LEVEL = 0.95
EQUAL = 1e-9
"""Values are equal whose standard deviation is so small a part of their mean: it is rounding."""
SHARES = ("win_rate", "rewards/accuracies", "distinct_2")
AT_LEAST_0 = ("kl", "entropy", "grad_norm", "pairs_per_s", "tokens_per_s", "perplexity")


class Covers(StrEnum):
    """What an interval allows for."""

    nothing = ""
    seeds = "seeds"
    evaluation = "evaluation"
    both = "seeds and evaluation"


@dataclass
class SharedError:
    """The variance that the evaluation adds to a mean over runs beside what differs between them, with its degrees of freedom.

    `bound`: no more than an upper bound, for want of the runs' values for each prompt.
    """

    variance: float
    df: float = math.inf
    bound: bool = False


@dataclass
class Bounds:
    """Between which two numbers a quantity lies by its nature."""

    low: float = -math.inf
    high: float = math.inf


@dataclass
class Estimate:
    """Mean of n values, their standard deviation, the standard error of the mean and its 95 % interval.

    None of each where n is too small. `covers` says what the interval allows for.
    """

    n: int
    mean: float | None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    df: float | None = None
    covers: Covers = Covers.nothing
    bound: bool = False


def estimate(values: Sequence[float], shared: SharedError | None = None, bounds: Bounds | None = None) -> Estimate:
    """The variance of the mean is sd^2 / n plus the shared error's; Student's quantile at Welch and Satterthwaite's freedom.

    sd^2 already holds the part of the evaluation's error that is each run's own. Of one value only the evaluation's error is
    known (`shared` is then all of it).
    """
    mean = statistics.fmean(values) if values else None
    if mean is None or (len(values) < 2 and shared is None):
        return Estimate(len(values), mean)
    n, extra = len(values), 0.0 if shared is None else shared.variance
    sd = statistics.stdev(values) if n > 1 else None
    between = 0.0 if sd is None else sd**2 / n
    variance, parts = between + extra, [(between, n - 1.0)]
    if shared is not None:
        parts.append((extra, shared.df))
    spent = sum(part**2 / df for part, df in parts if part > 0)
    df = variance**2 / spent if spent > 0 else math.inf
    covers = Covers.evaluation if n == 1 else Covers.seeds if shared is None else Covers.both
    found = Estimate(n, mean, sd, None, None, math.sqrt(variance), df, covers, shared is not None and shared.bound)
    found.low, found.high = _interval(found, bounds or Bounds())
    return found


def _interval(found: Estimate, bounds: Bounds) -> tuple[float | None, float | None]:
    """Of a share, symmetric in its log-odds (the standard error carried over to first order); of others, ended at the bound.

    A logarithm would keep a KL above 0 too, but of two seeds its interval can reach e^12 times as far. None where all values
    are equal, or all are a share's own bound: nothing then says how far they vary.
    """
    assert found.mean is not None
    assert found.se is not None
    assert found.df is not None
    if found.se <= EQUAL * abs(found.mean):
        return None, None
    reach = student_quantile((1 + LEVEL) / 2, found.df) * found.se
    if (bounds.low, bounds.high) != (0.0, 1.0):
        return max(found.mean - reach, bounds.low), min(found.mean + reach, bounds.high)
    if not 0 < found.mean < 1:
        return None, None
    odds, reach = math.log(found.mean / (1 - found.mean)), reach / (found.mean * (1 - found.mean))
    return _share(odds - reach), _share(odds + reach)


def _share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > 0 else math.exp(odds) / (1 + math.exp(odds))


def bounds_of(metric: str) -> Bounds:
    """Those of a metric by its name, which may end in ' at KL x'."""
    name = metric.partition(" at KL ")[0].removeprefix("eval/")
    if name in SHARES or name.startswith("positive/"):
        return Bounds(0.0, 1.0)
    return Bounds(0.0) if name in AT_LEAST_0 or name.startswith("length/") else Bounds()


def bounds_of_difference(metric: str) -> Bounds:
    """Of two shares, -1 and 1."""
    own = bounds_of(metric)
    return Bounds(own.low - own.high, own.high - own.low) if math.isfinite(own.high) else Bounds()
