"""Batches are a pure function of (seed, step)."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.sampler import _shuffled, batch_rows

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
