"""Geometric points in the override grammar."""

from __future__ import annotations

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st

from dpo_lab.cli.grammar import parsed, spelled_out

ENDS = st.floats(1e-6, 1e6) | st.integers(1, 10**6)


def points(call: str) -> list[float]:
    (override,) = parsed([f"loss.beta={call}"])
    return [float(text) for text in override.sweep_string_iterator()]


@pytest.mark.parametrize(
    ("call", "values"),
    {
        "logspace(0.01,1,5)": "0.01,0.0316,0.1,0.316,1",
        "logspace(1,0.001,4)": "1,0.1,0.01,0.001",
        "logspace(16,128,4)": "16,32,64,128",
        "logspace(1,1.01,5)": "1,1.0025,1.005,1.0075,1.01",
        "logspace(num=3,start=0.0123456,stop=1)": "0.0123456,0.111,1",
        "sort(logspace(100,1,3))": "1,10,100",
    }.items(),
)
def test_points_are_as_a_person_would_write_them(call: str, values: str) -> None:
    assert spelled_out([f"+a.b={call}", "seed=range(3)"]) == [f"+a.b={values}", "seed=range(3)"]


@given(ENDS, ENDS, st.integers(2, 40))
def test_each_point_is_the_same_multiple_of_the_one_before(start: float, stop: float, num: int) -> None:
    assume(abs(math.log(stop / start)) > 1e-3)
    call = f"logspace({start!r},{stop!r},{num})"
    found = points(call)
    assert (found[0], found[-1], len(found)) == (start, stop, num)
    step = math.log(stop / start) / (num - 1)
    for i, value in enumerate(found):
        # A twentieth of a step, and the rounding of the logarithms themselves.
        assert math.log(value / start) / step == pytest.approx(i, abs=0.051)


@given(ENDS, ENDS, st.integers(2, 12))
def test_hydras_own_parser_reads_the_same_values_from_what_is_spelled_out(start: float, stop: float, num: int) -> None:
    assume(abs(math.log(stop / start)) > 1e-3)
    word = f"loss.beta=logspace({start!r},{stop!r},{num})"
    (spelled,) = spelled_out([word])
    (override,) = OverridesParser.create().parse_overrides([spelled])
    assert list(override.sweep_string_iterator()) == list(parsed([word])[0].sweep_string_iterator())


@pytest.mark.parametrize("call", ["logspace(nan,1,3)", "logspace(1,inf,3)", "logspace(-1,1,3)", "logspace(1,2,2.5)"])
def test_what_is_no_range_is_refused_with_the_word_that_says_it(call: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read 'loss\.beta=logspace") as caught:
        parsed([f"loss.beta={call}"])
    assert "quotes" not in str(caught.value)
