"""Losses of pairs that look at the chosen or the rejected log-ratio by itself."""

from __future__ import annotations

from typing import Any

from losses.oracles.base import Oracle, PlainPair, of_pairs, sigmoid, softplus

from dpo_lab.records import Aggregate


def dpop(loss: Any, pair: PlainPair) -> float:
    lost = max(0.0, -pair.chosen_ratio)
    return softplus(loss.beta * loss.penalty * lost + pair.margin - loss.beta * pair.gap)


def sppo(loss: Any, pair: PlainPair) -> float:
    return (pair.chosen_ratio - 0.5 / loss.beta) ** 2 + (pair.rejected_ratio + 0.5 / loss.beta) ** 2


def apo_zero(loss: Any, pair: PlainPair) -> float:
    return sigmoid(-loss.beta * pair.chosen_ratio) + sigmoid(loss.beta * pair.rejected_ratio)


def apo_down(loss: Any, pair: PlainPair) -> float:
    return sigmoid(loss.beta * pair.chosen_ratio) + sigmoid(pair.margin - loss.beta * pair.gap)


def cal_dpo(loss: Any, pair: PlainPair) -> float:
    return softplus(-pair.gap) + loss.calibration * sppo(loss, pair)


ORACLES: dict[str, Oracle] = {
    "dpop": of_pairs(dpop),
    "sppo": of_pairs(sppo),
    "apo_zero": of_pairs(apo_zero),
    "apo_down": of_pairs(apo_down),
    "cal_dpo": of_pairs(cal_dpo),
}

# Of BY_HAND: log-ratios of sums are -3 + 4 = 1 and -4 + 3.5 = -.5, of means .5 and -.5.
NUMBERS: list[tuple[str, dict[str, Any], float]] = [
    ("dpop", {"beta": 1.0}, 0.2014132779827524),  # log(1 + e^-1.5): the chosen one has gained
    # swapped, the chosen one has lost .5: .8 log(1 + e^-1.5) + .2 log(1 + e^(1.5 + 2 * .5))
    ("dpop", {"beta": 1.0, "penalty": 2.0, "label_smoothing": 0.2}, 0.6769085692447119),
    ("sppo", {}, 36.25),  # (1 - 5)^2 + (-.5 + 5)^2
    ("sppo", {"beta": 0.5}, 0.25),  # (1 - 1)^2 + (-.5 + 1)^2
    ("sppo", {"beta": 0.5, "aggregate": Aggregate.mean}, 0.5),  # (.5 - 1)^2 + (-.5 + 1)^2
    ("apo_zero", {}, 0.9625234160368497),  # 1 - 1 / (1 + e^-.1) + 1 / (1 + e^.05)
    ("apo_zero", {"beta": 1.0}, 0.6464820901681405),  # 1 - 1 / (1 + e^-1) + 1 / (1 + e^.5)
    ("apo_down", {}, 0.9875493421351904),  # 1 / (1 + e^-.1) + 1 - 1 / (1 + e^-.15)
    ("apo_down", {"beta": 1.0}, 0.9134841024363612),  # 1 / (1 + e^-1) + 1 - 1 / (1 + e^-1.5)
    ("cal_dpo", {}, 36.45141327798275),  # log(1 + e^-1.5) + 36.25
    ("cal_dpo", {"beta": 0.5}, 0.45141327798275244),  # log(1 + e^-1.5) + .25
    ("cal_dpo", {"calibration": 0.5}, 18.326413277982752),  # log(1 + e^-1.5) + 36.25 / 2
]
