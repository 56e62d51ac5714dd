"""Losses of single completions, and those whose values depend on all prompts of the step. All see their first step here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

from losses.oracles.base import Oracle, Prompt, aggregated, ratio, sigmoid, softplus

from dpo_lab.records import Aggregate

BITS = 2**64


def shortest(prompt: Prompt) -> int:
    return min(len(completion.policy) for completion in prompt.candidates)


def ratios(loss: Any, prompt: Prompt) -> list[float]:
    return [ratio(loss, completion, shortest(prompt)) for completion in prompt.candidates]


def smoothed(loss: Any, probability: float) -> float:
    return probability * (1 - loss.label_smoothing) + (1 - probability) * loss.label_smoothing


def chances_of_desirable(loss: Any, prompt: Prompt) -> list[float]:
    k = len(prompt.candidates)
    if k == 1:
        chances = [float(prompt.candidates[0].desirable)]
    elif k == 2:
        chances = [prompt.confidence, 1 - prompt.confidence]
    else:
        chances = [(k - 1 - place) / (k - 1) for place in range(k)]  # beats all behind it
    return [smoothed(loss, chance) for chance in chances]


def kto(loss: Any, prompts: list[Prompt]) -> list[float]:
    others = [prompt.mismatched for prompt in prompts if prompt.mismatched is not None]
    z = max(0.0, sum(ratio(loss, other, len(other.policy)) for other in others) / len(others))

    def one(prompt: Prompt) -> float:
        found = []
        for rho, chance in zip(ratios(loss, prompt), chances_of_desirable(loss, prompt), strict=True):
            good = loss.desirable_weight * (1 - sigmoid(loss.beta * (rho - z)))
            bad = loss.undesirable_weight * (1 - sigmoid(loss.beta * (z - rho)))
            found.append(chance * good + (1 - chance) * bad)
        return sum(found) / len(found)

    return [one(prompt) for prompt in prompts]


def bco(loss: Any, prompts: list[Prompt]) -> list[float]:
    judged = [
        (loss.beta * rho, chance)
        for prompt in prompts
        for rho, chance in zip(ratios(loss, prompt), chances_of_desirable(loss, prompt), strict=True)
    ]

    def mean(weights: list[float]) -> float:
        total = sum(weights)
        return sum(w * reward for w, (reward, _) in zip(weights, judged, strict=True)) / total if total else 0.0

    delta = (mean([chance for _, chance in judged]) + mean([1 - chance for _, chance in judged])) / 2

    def one(prompt: Prompt) -> float:
        found = 0.0
        for rho, chance in zip(ratios(loss, prompt), chances_of_desirable(loss, prompt), strict=True):
            found += chance * softplus(delta - loss.beta * rho) + (1 - chance) * softplus(loss.beta * rho - delta)
        return found * {1: 1.0, 2: 1.0, 3: 2 / 3}[len(prompt.candidates)]

    return [one(prompt) for prompt in prompts]


def of_both_labels(loss: Any, gap: float) -> float:
    return (1 - loss.label_smoothing) * softplus(-loss.beta * gap) + loss.label_smoothing * softplus(loss.beta * gap)


def aot(loss: Any, prompts: list[Prompt]) -> list[float]:
    """Only the sum means something: the mean over ranks stands at every prompt."""

    def gaps(side: Callable[[Any], list[float]]) -> list[float]:
        found = []
        for prompt in prompts:
            logps = [aggregated(loss, side(completion), shortest(prompt)) for completion in prompt.candidates]
            found += [better - worse for i, better in enumerate(logps) for worse in logps[i + 1 :]]
        return sorted(found)

    policy, reference = gaps(lambda completion: completion.policy), gaps(lambda completion: completion.reference)
    values = [of_both_labels(loss, ours - theirs) for ours, theirs in zip(policy, reference, strict=True)]
    return [sum(values) / len(values)] * len(prompts)


def aot_unpaired(loss: Any, prompts: list[Prompt]) -> list[float]:
    """Only the sum means something: the integral stands at every prompt. Both sides are repeated until equally many."""
    good, bad = [], []
    for prompt in prompts:
        single = len(prompt.candidates) == 1
        for place, rho in enumerate(ratios(loss, prompt)):
            is_good = prompt.candidates[0].desirable if single else place == 0
            (good if is_good else bad).append(rho)
    if not good or not bad:
        return [0.0] * len(prompts)
    pairs = zip(sorted(good * len(bad)), sorted(bad * len(good)), strict=True)
    values = [of_both_labels(loss, better - worse) for better, worse in pairs]
    return [sum(values) / len(values)] * len(prompts)


def splitmix(x: int) -> int:
    """Steele et al. 2014, with Python's unbounded integers."""
    x = (x + 0x9E3779B97F4A7C15) % BITS
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % BITS
    return (x ^ (x >> 31)) % 2**63


def beta_dpo(loss: Any, prompts: list[Prompt], step: int = 0) -> list[float]:
    pairs = []
    for row, prompt in enumerate(prompts):
        found = ratios(loss, prompt)
        sure = prompt.confidence if len(found) == 2 else 1.0
        places = [(i, j) for i in range(len(found)) for j in range(i + 1, len(found))]
        for number, (i, j) in enumerate(places):
            weight = 1.0
            if loss.weighting.value == "wpo":
                for one in (prompt.candidates[i], prompt.candidates[j]):
                    weight *= math.exp(sum(p - c for p, c in zip(one.policy, one.collision, strict=True)) / len(one.policy))
            uniform = ((splitmix(splitmix(splitmix(row) + step) + number) >> 11) + 0.5) / 2**52
            pairs.append((row, found[i] - found[j], smoothed(loss, sure), weight, uniform))
    gaps = [gap for _, gap, _, _, _ in pairs]
    mean, deviation = statistics.fmean(gaps), statistics.stdev(gaps) if len(gaps) > 1 else 0.0
    kept = pairs
    if deviation > 1e-6:
        # With exponential clocks that tick at a pair's rate, the first to ring are a weighted draw without replacement.
        rate = {pair: math.exp(-(((pair[1] - mean) / deviation) ** 2) / 2) for pair in pairs}
        kept = sorted(pairs, key=lambda pair: -math.log(pair[4]) / rate[pair])[: max(1, len(pairs) * 4 // 5)]
    used = statistics.fmean(gap for _, gap, _, _, _ in kept)
    beta = max(min(1e-3, loss.beta), loss.beta * (1 + loss.a * (used - mean)))
    values = [0.0] * len(prompts)
    for row, gap, right, weight, _ in kept:
        of_pair = right * softplus(-beta * gap) + (1 - right) * softplus(beta * gap)
        values[row] += len(prompts) / len(kept) * weight * of_pair
    return values


ORACLES: dict[str, Oracle] = {"kto": kto, "bco": bco, "aot": aot, "aot_unpaired": aot_unpaired, "beta_dpo": beta_dpo}

# Of BY_HAND: log-ratios of sums 1 and -.5, of means .5 and -.5; mismatched .5. One pair: nothing to sort, to filter, to adapt.
NUMBERS: list[tuple[str, dict[str, Any], float]] = [
    ("kto", {"beta": 1.0}, 0.32324104508407026),  # z = .5: (sigmoid(-.5) + sigmoid(-1)) / 2 = (.3775407 + .2689414) / 2
    ("kto", {"beta": 1.0, "desirable_weight": 2.0}, 0.5120113794831429),  # (2 * .3775407 + .2689414) / 2
    ("kto", {"beta": 1.0, "aggregate": Aggregate.mean}, 0.38447071068499757),  # (sigmoid(0) + sigmoid(-1)) / 2
    ("bco", {"beta": 1.0}, 0.7737420122297999),  # delta = (1 - .5) / 2 = .25: 2 log(1 + e^-.75)
    ("bco", {"beta": 1.0, "label_smoothing": 0.2}, 1.0737420122298),  # both means .7 and -.2, delta .25: + .2 * 2 * .75
    ("aot", {"beta": 1.0}, 0.2014132779827524),  # one gap -3 + 4 = 1 against -4 + 3.5 = -.5: log(1 + e^-1.5), dpo's
    ("aot", {"beta": 1.0, "label_smoothing": 0.2}, 0.5014132779827524),  # + .2 * 1.5
    ("aot_unpaired", {"beta": 1.0}, 0.2014132779827524),  # 1 against -.5
    ("aot_unpaired", {"beta": 1.0, "aggregate": Aggregate.mean}, 0.31326168751822286),  # .5 against -.5: log(1 + e^-1)
    ("beta_dpo", {"beta": 1.0}, 0.2014132779827524),  # the mean gap is the average: dpo's
    ("beta_dpo", {"beta": 0.1}, 0.6209570477895321),  # log(1 + e^-.15)
]
