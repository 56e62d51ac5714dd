"""Losses of the difference between a pair's log-ratios."""

from __future__ import annotations

import math
from typing import Any

from losses.oracles.base import Oracle, PlainPair, of_pairs, sigmoid, softplus

from dpo_lab.losses.reward_kl import Distance
from dpo_lab.records import Aggregate


def x_of(loss: Any, pair: PlainPair) -> float:
    """The reward margin, less what it should exceed."""
    return loss.beta * pair.gap - pair.margin


def dpo(loss: Any, pair: PlainPair) -> float:
    return softplus(-x_of(loss, pair))


def ipo(loss: Any, pair: PlainPair) -> float:
    return (pair.gap - pair.margin / loss.beta - 0.5 / loss.beta) ** 2


def robust(loss: Any, pair: PlainPair) -> float:
    right, wrong = softplus(-x_of(loss, pair)), softplus(x_of(loss, pair))
    return ((1 - loss.epsilon) * right - loss.epsilon * wrong) / (1 - 2 * loss.epsilon)


def hinge(loss: Any, pair: PlainPair) -> float:
    return max(0.0, 1 - x_of(loss, pair))


def exo(loss: Any, pair: PlainPair) -> float:
    x = x_of(loss, pair)
    return sum(
        sigmoid(log_odds) * (-softplus(-log_odds) - math.log(label))
        for log_odds, label in ((x, 1 - loss.epsilon), (-x, loss.epsilon))
    )


def discopop(loss: Any, pair: PlainPair) -> float:
    x = x_of(loss, pair)
    gate = x / loss.tau
    if x > 0:
        gated = math.exp(-x) / (1 + math.exp(-gate))
    else:  # numerator and denominator times e^gate, or e^-x would overflow
        gated = math.exp(gate - x) / (1 + math.exp(gate))
    return sigmoid(-gate) * softplus(-x) + gated


def tdpo1(loss: Any, pair: PlainPair) -> float:
    return softplus(-x_of(loss, pair) + loss.beta * (pair.rejected_kl - pair.chosen_kl))


def tdpo2(loss: Any, pair: PlainPair) -> float:
    return softplus(-x_of(loss, pair) + loss.beta * loss.alpha * (pair.rejected_kl - pair.chosen_kl))


def rebel(loss: Any, pair: PlainPair) -> float:
    return (loss.beta * pair.gap - pair.chosen_score + pair.rejected_score) ** 2


def reward_kl(loss: Any, pair: PlainPair) -> float:
    implicit, given = loss.beta * pair.gap, loss.eta * (pair.chosen_score - pair.rejected_score)
    if loss.distance is Distance.squared:
        return (implicit - given) ** 2
    p, q = (given, implicit) if loss.distance is Distance.backward else (implicit, given)
    return sum(sigmoid(sign * p) * (softplus(-sign * q) - softplus(-sign * p)) for sign in (1, -1))


ORACLES: dict[str, Oracle] = {
    "dpo": of_pairs(dpo),
    "ipo": of_pairs(ipo),
    "robust": of_pairs(robust),
    "hinge": of_pairs(hinge),
    "exo": of_pairs(exo),
    "discopop": of_pairs(discopop),
    "tdpo1": of_pairs(tdpo1),
    "tdpo2": of_pairs(tdpo2),
    "rebel": of_pairs(rebel),
    "reward_kl": of_pairs(reward_kl),
}

# Of BY_HAND: sums have gap (-3 + 4) - (-4 + 3.5) = 1.5, means (-1.5 + 2) - (-4 + 3.5) = 1;
# the divergences sum to .5 and .75, the scores differ by 1. Worked out with 40 digits.
NUMBERS: list[tuple[str, dict[str, Any], float]] = [
    ("dpo", {"beta": 1.0}, 0.2014132779827524),  # log(1 + e^-1.5)
    ("dpo", {"beta": 0.1}, 0.6209570477895321),  # log(1 + e^-.15)
    ("dpo", {"beta": 2.0, "aggregate": Aggregate.mean}, 0.1269280110429725),  # log(1 + e^-2)
    ("dpo", {"beta": 1.0, "label_smoothing": 0.2}, 0.5014132779827524),  # the first + .2 * 1.5
    ("ipo", {"beta": 0.1, "aggregate": Aggregate.sum}, 12.25),  # (1.5 - 5)^2
    ("ipo", {"beta": 0.1}, 16.0),  # (1 - 5)^2, means by default
    ("ipo", {"beta": 0.1, "label_smoothing": 0.25}, 21.0),  # .75 * 16 + .25 * 36
    ("robust", {}, 0.602207047789532),  # (.9 log(1 + e^-.15) - .1 log(1 + e^.15)) / .8
    ("robust", {"beta": 1.0, "epsilon": 0.2}, -0.29858672201724756),  # (.8 log(1 + e^-1.5) - .2 log(1 + e^1.5)) / .6
    ("hinge", {}, 0.85),  # 1 - .15
    ("hinge", {"beta": 1.0}, 0.0),  # 1.5 is beyond 1
    ("hinge", {"beta": 0.5, "aggregate": Aggregate.mean}, 0.5),  # 1 - .5
    ("hinge", {"beta": 1.0, "label_smoothing": 0.25}, 0.625),  # .75 * 0 + .25 * (1 + 1.5)
    ("exo", {}, 2.505516555477872),  # q = 1 / (1 + e^-.15): q log(q / .999) + (1 - q) log((1 - q) / .001)
    ("exo", {"beta": 1.0, "epsilon": 0.1}, 0.03113879640629912),  # q = 1 / (1 + e^-1.5), .9 and .1
    ("discopop", {}, 0.8493375792893855),  # m = 1 / (1 + e^-3): (1 - m) log(1 + e^-.15) + m e^-.15
    ("discopop", {"beta": 1.0, "tau": 1.0}, 0.2191684465439152),  # m = 1 / (1 + e^-1.5), x = 1.5
    ("tdpo1", {}, 0.6325990353171691),  # log(1 + e^-.125): 1.5 - (.75 - .5) = 1.25
    ("tdpo1", {"beta": 1.0}, 0.2519290813453729),  # log(1 + e^-1.25)
    ("tdpo2", {}, 0.6267586024536783),  # log(1 + e^-.1375): 1.5 - .5 * (.75 - .5) = 1.375
    ("tdpo2", {"beta": 1.0, "alpha": 1.0}, 0.2519290813453729),  # as tdpo1
    ("tdpo2", {"beta": 1.0, "label_smoothing": 0.25}, 0.5691626516016479),  # .75 log(1 + e^-1.375) + .25 log(1 + e^1.375)
    ("rebel", {}, 0.25),  # (1.5 - 1)^2
    ("rebel", {"beta": 0.1}, 0.7225),  # (.15 - 1)^2
    ("rebel", {"aggregate": Aggregate.mean}, 0.0),  # (1 - 1)^2
    ("reward_kl", {"beta": 1.0}, 0.022622301149527135),  # p = 1 / (1 + e^-1) from q = 1 / (1 + e^-1.5): sum p log(p / q)
    ("reward_kl", {"beta": 1.0, "distance": Distance.forward}, 0.020635647632292253),  # sum q log(q / p)
    ("reward_kl", {"beta": 1.0, "distance": Distance.squared}, 0.25),  # (1.5 - 1)^2
    ("reward_kl", {"eta": 2.0}, 0.2735036310056421),  # p = 1 / (1 + e^-2) from q = 1 / (1 + e^-.15)
]
