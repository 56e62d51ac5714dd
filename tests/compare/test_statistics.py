"""Intervals and tests against other ways to compute them, and against what they promise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpo_lab.compare.intervals import SHARE, Bounds, Covers, SharedError, bounds_of, estimate, half_width
from dpo_lab.compare.significance import EXACT_UP_TO, holm, sign_flip_p, smallest_p, t_test_p

NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 3))
SEVERAL = st.lists(NUMBERS, min_size=2, max_size=6)


FREEDOM = st.floats(0.5, 1e5) | st.integers(1, 60).map(float) | st.just(float("inf"))


@given(st.floats(1e-4, 1.0), FREEDOM)
def test_one_source_of_error_reaches_as_far_as_students_quantile(p: float, df: float) -> None:
    assert half_width([(4.0, df)], p) == pytest.approx(2 * stats.t.isf(p / 2, df), rel=1e-6, abs=1e-9)


def test_the_interval_of_three_values_is_the_textbooks() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    assert (found.low, found.high) == (pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-6), pytest.approx(4.484138, abs=1e-6))


def test_one_value_has_a_mean_and_no_interval_and_none_has_nothing() -> None:
    assert estimate([2.0]).mean == 2.0
    assert (estimate([2.0]).sd, estimate([2.0]).low, estimate([]).mean) == (None, None, None)
    assert sign_flip_p([1.0]) is None
    assert t_test_p([1.0]) is None


@given(SEVERAL)
def test_the_paired_t_test_is_scipys(differences: list[float]) -> None:
    if 2 * len(set(differences)) > len(differences):
        assert t_test_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, abs=1e-9)


def test_of_equal_differences_the_t_test_says_nothing_unless_they_are_zero() -> None:
    assert (t_test_p([2.0, 2.0, 2.0]), t_test_p([0.0, 0.0, 0.0])) == (None, 1.0)
    assert t_test_p([2.3 - 1.3, 4.3 - 3.3]) is None  # equal up to rounding
    assert t_test_p([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, -1.0]) is None  # three numbers among eight are far from normal
    assert (estimate([2.0, 2.0]).low, sign_flip_p([2.0, 2.0])) == (None, 0.5)
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0


@given(SEVERAL)
def test_the_sign_flip_test_counts_every_choice_of_signs(differences: list[float]) -> None:
    thousandths = [round(1000 * x) for x in differences]  # whole numbers: a tie is exactly a tie
    sums = [abs(sum(map(int.__mul__, signs, thousandths))) for signs in itertools.product((-1, 1), repeat=len(thousandths))]
    far = sum(total >= abs(sum(thousandths)) for total in sums)
    assert sign_flip_p(differences) == pytest.approx(far / len(sums), abs=1e-12)


@given(SEVERAL, st.integers(1, 20))
def test_under_the_null_small_p_values_are_as_rare_as_they_say(sizes: list[float], tenths: int) -> None:
    level = tenths / 20
    p_values = [
        sign_flip_p([sign * abs(size) for sign, size in zip(signs, sizes, strict=True)])
        for signs in itertools.product((-1, 1), repeat=len(sizes))
    ]
    assert sum(p <= level for p in p_values if p is not None) <= level * len(p_values)


@pytest.mark.parametrize("n", range(2, EXACT_UP_TO + 1))
def test_the_smallest_p_is_reached_and_three_seeds_stop_at_a_quarter(n: int) -> None:
    assert sign_flip_p([float(i + 1) for i in range(n)]) == smallest_p(n) == 2 / 2**n
    assert smallest_p(3) == 0.25


@given(SEVERAL)
def test_direction_and_scale_do_not_matter(differences: list[float]) -> None:
    assert sign_flip_p([-x for x in differences]) == sign_flip_p(differences)
    assert sign_flip_p([1024 * x for x in differences]) == sign_flip_p(differences)


def test_beyond_twelve_pairs_drawn_flips_agree_with_the_t_test() -> None:
    draw = np.random.default_rng(1)
    for shift in (0.0, 0.2, 0.4):
        differences = (draw.normal(size=40) + shift).tolist()
        assert sign_flip_p(differences) == pytest.approx(t_test_p(differences), abs=0.03)
    assert sign_flip_p([1.0 + 0.01 * i for i in range(20)]) == smallest_p(20)


@pytest.mark.parametrize("n", [5, 13, 20])
def test_a_true_null_is_rejected_no_more_often_than_the_level_says(n: int) -> None:
    """The bootstrap that stood here rejected 8.7 % at .05."""
    draw, times = np.random.default_rng(n), 600
    p_values = [sign_flip_p(draw.normal(size=n).tolist()) or 0.0 for _ in range(times)]
    for level in (0.05, 0.01):
        rejected = sum(p <= level for p in p_values)
        assert rejected <= stats.binom.ppf(0.999, times, level), (n, level, rejected)


def test_flips_and_t_test_allow_for_an_error_that_all_seeds_share() -> None:
    draw, times, shared = np.random.default_rng(0), 400, SharedError(0.25)
    rejected = [0, 0, 0]
    for _ in range(times):
        differences = (draw.normal(0, 0.5) + draw.normal(0, 1, size=8)).tolist()  # the truth is 0
        p_values = [sign_flip_p(differences), sign_flip_p(differences, shared), t_test_p(differences, shared)]
        rejected = [so_far + (p is not None and p <= 0.05) for so_far, p in zip(rejected, p_values, strict=True)]
    assert rejected[0] > 0.1 * times  # without it, far too often
    assert all(count <= stats.binom.ppf(0.999, times, 0.05) for count in rejected[1:]), rejected


def test_the_interval_adds_the_shared_error_with_a_quantile_of_its_own() -> None:
    found = estimate([1.0, 2.0, 3.0], SharedError(0.5, 100.0))
    far = (stats.t.ppf(0.975, 2) ** 2 / 3 + stats.t.ppf(0.975, 100) ** 2 / 2) ** 0.5
    assert found.se == pytest.approx((1 / 3 + 0.5) ** 0.5)
    assert (found.low, found.high) == (pytest.approx(2 - far), pytest.approx(2 + far))
    assert found.covers is Covers.both
    one = estimate([2.0], SharedError(0.25))
    assert (one.covers, one.high) == (Covers.evaluation, pytest.approx(2 + 0.5 * stats.norm.ppf(0.975)))


@given(SEVERAL, st.floats(0.01, 10), st.floats(-20, 20))
def test_the_t_test_rejects_where_the_interval_excludes_0(values: list[float], variance: float, shift: float) -> None:
    shared, moved = SharedError(variance, 30.0), [value + shift for value in values]
    found, p = estimate(moved, shared), t_test_p(moved, shared)
    if found.low is not None and found.high is not None and p is not None and abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("shares", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.02, 0.5, 0.5)])
def test_an_interval_over_seeds_and_prompts_holds_the_truth_as_often_as_it_says(n: int, shares: Sequence[float]) -> None:
    """Seeds, prompts and samples with these variances on 50 prompts; without the shared error the second holds 1 in 10."""
    draw, prompts, times, held = np.random.default_rng(n), 50, 400, 0
    scale = np.sqrt(shares)
    for _ in range(times):
        table = scale[0] * draw.normal(size=(n, 1)) + scale[1] * draw.normal(size=(1, prompts))
        table = table + scale[2] * draw.normal(size=(n, prompts))
        covariance = np.cov(table) / prompts
        shared = (covariance.sum() - np.trace(covariance)) / n / (n - 1)
        found = estimate(table.mean(axis=1).tolist(), SharedError(max(float(shared), 0.0), prompts - 1.0))
        held += found.low is not None and found.high is not None and found.low <= 0 <= found.high
    assert 0.92 * times <= held <= (0.985 if n > 2 else 0.995) * times


@given(st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=2, max_size=5), st.floats(0, 0.1))
def test_an_interval_of_shares_lies_between_0_and_1_and_holds_the_mean(values: list[float], variance: float) -> None:
    found = estimate(values, SharedError(variance), Bounds(0.0, 1.0))
    if found.low is not None and found.high is not None and found.mean is not None:
        assert 0 <= found.low <= found.mean <= found.high <= 1
    else:
        assert found.mean in (0, 1) or (found.se is not None and found.se <= 1e-9)


def test_a_share_of_all_prompts_has_the_exact_binomials_interval() -> None:
    found, none = (estimate([x, x], SharedError(0.0, 49.0), bounds_of("win_rate")) for x in (1.0, 0.0))
    exact = stats.binomtest(50, 50).proportion_ci(method="exact")
    assert (found.low, found.high) == (pytest.approx(exact.low), 1.0)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - exact.low))
    assert estimate([1.0, 1.0], bounds=bounds_of("win_rate")).low is None  # of how many, nobody knows


def test_bounds_go_with_the_name_of_a_metric() -> None:
    assert estimate([0.1, 0.6], bounds=bounds_of("eval/kl")).low == 0.0
    below = estimate([-0.02, -0.021, -0.022], SharedError(1e-8, 100.0), bounds_of("kl"))
    assert (below.low, below.high) == (0.0, 0.0)  # all that a KL can be, in so small an error
    assert bounds_of("eval/label_ties") == SHARE
    assert bounds_of("positive/policy at KL 2") == bounds_of("eval/rewards/accuracies") == Bounds(0.0, 1.0)
    assert bounds_of("reward/policy") == bounds_of("ideal_share") == Bounds()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_step_down_rule(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected, left = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
        while left and p_values[left[0]] * len(left) <= level:  # the rule as Holm gives it
            rejected.add(left.pop(0))
        assert {i for i, p in enumerate(corrected) if p <= level} == rejected
    assert all(c >= p for c, p in zip(corrected, p_values, strict=True))
