"""Every loss against its equation in plain Python, and the oracles against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from carried import Carried
from hypothesis import given
from hypothesis import strategies as st
from losses.oracles import batch_coupled, mixed, others, rankings, reference_free, reference_pairs, separate_sides
from losses.oracles.base import Completion, Prompt, tensors
from strategies import configured

from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.records import Aggregate

FAMILIES = (reference_pairs, separate_sides, reference_free, mixed, batch_coupled, rankings, others)
ORACLES = {name: oracle for family in FAMILIES for name, oracle in family.ORACLES.items()}
NUMBERS = [numbers for family in FAMILIES for numbers in family.NUMBERS]

BY_HAND = Prompt(
    [
        Completion([-1.0, -2.0], [-2.0, -2.0], kl=[0.25, 0.25], collision=[-1.0, -1.0], score=2.0),
        Completion([-4.0], [-3.5], kl=[0.75], collision=[-2.0], score=1.0, desirable=False),
    ],
    mismatched=Completion([-1.0], [-1.5]),
)


def test_every_loss_of_the_lab_has_an_oracle_and_numbers_by_hand() -> None:
    own = {name for name in LOSSES if LOSSES[name].__module__.startswith("dpo_lab.")}
    assert own == set(ORACLES) == {name for name, _, _ in NUMBERS}


@pytest.mark.parametrize(("name", "options", "expected"), NUMBERS)
def test_a_loss_is_the_number_worked_out_by_hand(name: str, options: dict[str, Any], expected: float) -> None:
    loss, records = Carried(LOSSES[name](**options)), tensors([BY_HAND])
    loss.observe(*records)
    assert loss(*records).item() == pytest.approx(expected, rel=1e-12)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    m = draw(st.integers(1, 4))

    def numbers(low: float, high: float) -> list[float]:
        return draw(st.lists(st.floats(low, high, width=32), min_size=m, max_size=m))

    return Completion(numbers(-8, -0.125), numbers(-8, -0.125), kl=numbers(0.125, 3), collision=numbers(-5, -0.125))


@st.composite
def prompts(draw: st.DrawFn, k: int) -> Prompt:
    candidates = [draw(completions()) for _ in range(k)]
    score = draw(st.floats(-2, 2))
    for candidate in reversed(candidates):  # best first, no ties
        candidate.score = score
        score += draw(st.floats(0.1, 3))
        candidate.desirable = draw(st.booleans())
    mismatched = draw(completions())
    return Prompt(candidates, draw(st.floats(0.0, 1.0)), draw(st.floats(-1, 1)), mismatched)


@given(st.data())
def test_a_loss_is_its_equation(loss_class: type[PreferenceLoss], data: st.DataObject) -> None:
    name = loss_class.name
    if name not in ORACLES:
        pytest.skip("a user's loss: its oracle is the user's to write")
    loss = data.draw(configured(loss_class))
    if loss.aggregate is Aggregate.sampled:
        return  # drawn by a hash, for which tests/test_aggregates.py has its own truths
    k = data.draw(st.integers(loss_class.min_candidates, min(3, loss_class.max_candidates or 3)))
    drawn = data.draw(st.lists(prompts(k), min_size=1, max_size=3))
    records, carried = tensors(drawn), Carried(loss)
    carried.observe(*records)
    expected = ORACLES[name](loss, drawn)
    for row, prompt in enumerate(drawn):
        expected[row] -= loss.nll * sum(prompt.candidates[0].policy) / len(prompt.candidates[0].policy)
    values = carried(*records)
    if loss_class.laws.rowwise:
        assert values.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-11)
    else:
        assert math.fsum(values.tolist()) == pytest.approx(math.fsum(expected), rel=1e-9, abs=1e-11)
    assert values.dtype == torch.float64
