"""Schedules: a factor in [0, 1], up through the warm-up, down after it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.training.schedules import SCHEDULES, ScheduleSpec

WARMUPS = st.floats(0, 1, exclude_max=True)


def specs(warmup: st.SearchStrategy[float] = WARMUPS) -> st.SearchStrategy[ScheduleSpec]:
    finals = st.floats(0, 1)
    return st.one_of(
        st.builds(SCHEDULES["constant"], warmup=warmup),
        st.builds(SCHEDULES["linear"], warmup=warmup, final=finals),
        st.builds(SCHEDULES["cosine"], warmup=warmup, final=finals),
    )


def test_every_schedule_is_drawn_from() -> None:
    assert set(SCHEDULES) == {"constant", "linear", "cosine"}


@given(spec=specs(), num_steps=st.integers(1, 40))
def test_a_factor_lies_in_0_to_1_and_falls_only_after_it_has_risen(spec: ScheduleSpec, num_steps: int) -> None:
    factors = [spec.factor(step, num_steps) for step in range(num_steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@given(spec=specs(), num_steps=st.integers(1, 40))
def test_the_warm_up_rises_step_by_step_and_is_over_when_its_share_of_the_run_is(spec: ScheduleSpec, num_steps: int) -> None:
    factors = [spec.factor(step, num_steps) for step in range(num_steps)]
    steps = math.ceil(spec.warmup * num_steps)
    for step in range(steps - 1):
        assert factors[step] == pytest.approx((step + 1) / (spec.warmup * num_steps))
        assert factors[step] < factors[step + 1]
    assert factors[max(steps - 1, 0)] == 1


@given(spec=specs(st.just(0.0)), num_steps=st.integers(1, 40))
def test_without_a_warm_up_the_first_step_is_a_whole_one(spec: ScheduleSpec, num_steps: int) -> None:
    assert spec.factor(0, num_steps) == 1


@pytest.mark.parametrize("name", ["linear", "cosine"])
@given(final=st.floats(0, 1), warmup=st.floats(0, 0.5))
def test_a_decay_ends_at_its_final_factor(name: str, final: float, warmup: float) -> None:
    last = SCHEDULES[name](warmup=warmup, final=final).factor(999, 1000)
    assert last == pytest.approx(final, abs=0.0021)  # one step before the end of 500 or more


def test_halfway_through_the_decay_the_factor_is_halfway() -> None:
    for name in ("linear", "cosine"):
        assert SCHEDULES[name](warmup=0.5, final=0.2).factor(75, 100) == pytest.approx(0.6)
    assert SCHEDULES["cosine"]().factor(25, 100) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert SCHEDULES["linear"]().factor(25, 100) == pytest.approx(0.75)
    assert SCHEDULES["constant"]().factor(99, 100) == 1


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("warmup", [-0.1, 1.0, 3.0, math.nan])
def test_a_warm_up_outside_0_to_1_is_refused(name: str, warmup: float) -> None:
    with pytest.raises(ValueError, match=r"schedule\.warmup"):
        SCHEDULES[name](warmup=warmup)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("final", [-0.1, 1.5, math.nan])
def test_a_final_factor_outside_0_to_1_is_refused(name: str, final: float) -> None:
    # Below 0 the learning rate turns negative: gradient ascent at the end of the run.
    with pytest.raises(ValueError, match=r"schedule\.final"):
        SCHEDULES[name](final=final)
