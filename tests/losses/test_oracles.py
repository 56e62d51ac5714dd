"""Every loss against its equation in plain Python, and the oracles against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import comparisons, configured, logps_and_batch

from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.records import Aggregate, Logps

Floats = list[float]
Oracle = Callable[[Any, Floats, Floats, int, int], float]
"""(loss, policy (chosen, rejected), reference (chosen, rejected), their lengths) -> the loss where the order is certain."""


def softplus(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def gap(loss: Any, policy: Floats, reference: Floats, n_chosen: int, n_rejected: int) -> float:
    if loss.aggregate is Aggregate.mean:
        return (policy[0] - reference[0]) / n_chosen - (policy[1] - reference[1]) / n_rejected
    return (policy[0] - reference[0]) - (policy[1] - reference[1])


def dpo(loss: Any, *pair: Any) -> float:
    return softplus(-loss.beta * gap(loss, *pair))


def ipo(loss: Any, *pair: Any) -> float:
    return (gap(loss, *pair) - 0.5 / loss.beta) ** 2


def sft(loss: Any, policy: Floats, reference: Floats, n_chosen: int, n_rejected: int) -> float:
    return -policy[0] / (n_chosen if loss.aggregate is Aggregate.mean else 1)


ORACLES: dict[str, Oracle] = {"dpo": dpo, "ipo": ipo, "sft": sft}

# policy and reference log-probabilities of the tokens of the chosen, then of the rejected completion
BY_HAND = ([-1.0, -2.0], [-4.0], [-2.0, -2.0], [-3.5])
# sums: gap = (-3 + 4) - (-4 + 3.5) = 1.5; means: (-1.5 + 2) - (-4 + 3.5) = 1
NUMBERS = [
    ("dpo", {"beta": 1.0}, 0.2014132779827524),  # log(1 + e^-1.5)
    ("dpo", {"beta": 0.1}, 0.6209570477895321),  # log(1 + e^-.15)
    ("dpo", {"beta": 2.0, "aggregate": Aggregate.mean}, 0.1269280110429725),  # log(1 + e^-2)
    ("dpo", {"beta": 1.0, "label_smoothing": 0.2}, 0.5014132779827524),  # the first + .2 * 1.5
    ("ipo", {"beta": 0.1, "aggregate": Aggregate.sum}, 12.25),  # (1.5 - 5)^2
    ("ipo", {"beta": 0.1}, 16.0),  # (1 - 5)^2, means by default
    ("ipo", {"beta": 0.1, "label_smoothing": 0.25}, 21.0),  # .75 * 16 + .25 * 36
    ("sft", {}, 1.5),
    ("sft", {"aggregate": Aggregate.sum}, 3.0),
]


def of_lists(chosen: Floats, rejected: Floats, reference_chosen: Floats, reference_rejected: Floats) -> Any:
    def padded(*rows: Floats) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([[row + [0.0] * (width - len(row))] for row in rows], dtype=torch.float64)

    mask = padded([1.0] * len(chosen), [1.0] * len(rejected)).bool()
    return logps_and_batch(padded(chosen, rejected), padded(reference_chosen, reference_rejected), mask)


def test_every_loss_of_the_lab_has_an_oracle_and_numbers_by_hand() -> None:
    own = {name for name in LOSSES if LOSSES[name].__module__.startswith("dpo_lab.")}
    assert own == set(ORACLES) == {name for name, _, _ in NUMBERS}


@pytest.mark.parametrize(("name", "options", "expected"), NUMBERS)
def test_a_loss_is_the_number_worked_out_by_hand(name: str, options: dict[str, Any], expected: float) -> None:
    loss = LOSSES[name](**options)
    assert loss(*of_lists(*BY_HAND)).item() == pytest.approx(expected, rel=1e-12)


@given(st.data())
def test_a_loss_is_its_equation(loss_class: type[PreferenceLoss], data: st.DataObject) -> None:
    name = loss_class.name
    if name not in ORACLES:
        pytest.skip("a user's loss: its oracle is the user's to write")
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(uncertain=True))
    assert logps.reference is not None
    certain_order = not hasattr(loss, "label_smoothing")
    noise = getattr(loss, "label_smoothing", 0.0)
    values = loss(logps, batch).tolist()
    for row, value in enumerate(values):
        policy, reference, lengths = listed(logps, row)
        confidence = batch.confidence[row].item()
        right = 1.0 if certain_order else confidence * (1 - noise) + (1 - confidence) * noise
        expected = right * ORACLES[name](loss, policy, reference, *lengths)
        if right < 1:
            expected += (1 - right) * ORACLES[name](loss, policy[::-1], reference[::-1], *lengths[::-1])
        assert value == pytest.approx(expected, rel=1e-10, abs=1e-12)


def listed(logps: Logps, row: int) -> tuple[Floats, Floats, list[int]]:
    """Sums under the policy, sums under the reference, lengths; each chosen first."""
    assert logps.reference is not None
    masks = [[i for i, real in enumerate(logps.mask[c, row].tolist()) if real] for c in range(2)]
    sums = [[sum(tensor[c, row, i].item() for i in masks[c]) for c in range(2)] for tensor in (logps.policy, logps.reference)]
    return sums[0], sums[1], [len(real) for real in masks]
