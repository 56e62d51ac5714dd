"""Batches are a pure function of (seed, step)."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.training.sampler import _shuffled, batch_rows

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 9)


@given(seed=SEEDS, num_rows=SIZES, batch_size=SIZES, epochs=st.integers(1, 3))
def test_every_row_comes_once_in_every_epoch(seed: int, num_rows: int, batch_size: int, epochs: int) -> None:
    steps = -(-num_rows * epochs // batch_size)
    chain = torch.cat([batch_rows(seed, step, batch_size, num_rows) for step in range(steps)])
    assert len(chain) == steps * batch_size
    for epoch in range(epochs):
        assert sorted(chain[epoch * num_rows : (epoch + 1) * num_rows].tolist()) == list(range(num_rows))


@given(seed=SEEDS, num_rows=SIZES, batch_size=SIZES, steps=st.lists(st.integers(0, 12), min_size=2, max_size=5))
def test_a_batch_depends_on_seed_and_step_alone(seed: int, num_rows: int, batch_size: int, steps: list[int]) -> None:
    in_order = {step: batch_rows(seed, step, batch_size, num_rows) for step in sorted(steps)}
    _shuffled.cache_clear()
    torch.manual_seed(steps[0])
    for step in steps:
        assert torch.equal(batch_rows(seed, step, batch_size, num_rows), in_order[step])


@given(seed=SEEDS, num_rows=SIZES, batch_size=SIZES, step=st.integers(0, 5))
def test_drawing_a_batch_touches_no_other_source_of_chance(seed: int, num_rows: int, batch_size: int, step: int) -> None:
    _shuffled.cache_clear()
    before = torch.random.get_rng_state()
    batch_rows(seed, step, batch_size, num_rows)
    assert torch.equal(torch.random.get_rng_state(), before)


@given(seed=SEEDS, num_rows=SIZES, batch_size=st.integers(1, 4), parts=st.integers(1, 4), step=st.integers(0, 5))
def test_the_order_of_rows_does_not_depend_on_how_a_step_is_cut(
    seed: int, num_rows: int, batch_size: int, parts: int, step: int
) -> None:
    whole = batch_rows(seed, step, batch_size * parts, num_rows)
    cut = [batch_rows(seed, step * parts + part, batch_size, num_rows) for part in range(parts)]
    assert torch.equal(whole, torch.cat(cut))


WINDOWS = st.integers(1, 5)


def by_length(seed: int, step: int, batch_size: int, num_rows: int, window: int) -> torch.Tensor:
    lengths = torch.randint(1, 30, (num_rows,), generator=torch.Generator().manual_seed(seed % 1000))
    return batch_rows(seed, step, batch_size, num_rows, lengths, window)


@given(seed=SEEDS, num_rows=SIZES, batch_size=SIZES, epochs=st.integers(1, 3), window=WINDOWS)
def test_in_windows_too_every_row_comes_once_in_every_epoch(
    seed: int, num_rows: int, batch_size: int, epochs: int, window: int
) -> None:
    steps = -(-num_rows * epochs // batch_size)
    batches = [by_length(seed, step, batch_size, num_rows, window) for step in range(steps)]
    assert all(len(batch) == batch_size for batch in batches)
    chain = torch.cat(batches)
    for epoch in range(epochs):
        assert sorted(chain[epoch * num_rows : (epoch + 1) * num_rows].tolist()) == list(range(num_rows))


@given(seed=SEEDS, num_rows=SIZES, batch_size=SIZES, step=st.integers(0, 12), window=WINDOWS)
def test_in_windows_too_a_batch_depends_on_seed_and_step_alone(
    seed: int, num_rows: int, batch_size: int, step: int, window: int
) -> None:
    found = by_length(seed, step, batch_size, num_rows, window)
    _shuffled.cache_clear()
    torch.manual_seed(step)
    before = torch.random.get_rng_state()
    assert by_length(seed, step, batch_size, num_rows, window).equal(found)
    assert torch.random.get_rng_state().equal(before)


@given(seed=SEEDS, window=st.integers(2, 6), batch_size=st.integers(2, 5))
def test_a_window_holds_the_rows_that_a_shuffle_gives_it_in_batches_of_like_length(
    seed: int, window: int, batch_size: int
) -> None:
    lengths = torch.randperm(60, generator=torch.Generator().manual_seed(seed % 1000))
    plain = torch.cat([batch_rows(seed, step, batch_size, 60) for step in range(window)])
    batches = [batch_rows(seed, step, batch_size, 60, lengths, window) for step in range(window)]
    assert sorted(torch.cat(batches).tolist()) == sorted(plain.tolist())
    ranges = sorted((int(lengths[batch].min()), int(lengths[batch].max())) for batch in batches)
    assert all(one[1] < other[0] for one, other in pairwise(ranges))


def test_no_batch_of_a_window_is_longer_than_another_on_average() -> None:
    lengths = torch.arange(24)
    first, last = (
        torch.stack([batch_rows(seed, step, 4, 24, lengths, 3)[:4].sort().values for seed in range(600)]).double().mean()
        for step in (0, 2)
    )
    # A batch's mean length has a standard deviation of about 5.5, the mean over 600 seeds of .22; 4.5 of them.
    assert abs(float(first) - 11.5) < 1
    assert abs(float(last) - 11.5) < 1


@given(seed=SEEDS)
def test_seeds_and_epochs_are_shuffled_differently(seed: int) -> None:
    orders = [batch_rows(s, epoch, 64, 64).tolist() for s in (seed, seed + 1) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_every_row_is_as_likely_as_any_other_to_come_first() -> None:
    counts = torch.zeros(4)
    for seed in range(2000):
        counts[batch_rows(seed, 0, 1, 4)] += 1
    # Binomial(2000, 1/4): standard deviation 19; 4.5 of them.
    assert float((counts - 500).abs().max()) < 87
