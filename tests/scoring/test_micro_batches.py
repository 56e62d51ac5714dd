"""Micro-batches under a token budget hold whole prompts, of like length, and no more tokens than they may."""

from __future__ import annotations

import torch
from batches import comparison
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches

from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.micro_batches import row_lengths, split_by_tokens


@given(batches(), st.integers(1, 40), st.integers(1, 3), st.data())
def test_micro_batches_hold_every_prompt_once_within_the_budget(
    batch: CandidateBatch, budget: int, workers: int, data: st.DataObject
) -> None:
    rows = torch.tensor(data.draw(st.permutations(range(len(batch))))[: data.draw(st.integers(1, len(batch)))])
    micro_batches = split_by_tokens(batch, rows, budget, workers)
    assert sorted(torch.cat(micro_batches).tolist()) == sorted(rows.tolist())
    for micro_batch in micro_batches:
        part = batch.select(micro_batch)
        longest = int((part.prompt_mask.sum(dim=1) + part.mask.sum(dim=2)).max())
        assert part.num_candidates * longest * len(part) * workers <= budget or len(part) == 1
    lengths = [row_lengths(batch)[micro_batch].tolist() for micro_batch in micro_batches]
    assert [length for of in lengths for length in of] == sorted((n for of in lengths for n in of), reverse=True)


def test_micro_batches_are_as_large_as_the_budget_allows() -> None:
    batch = comparison([[1] * 3] * 7, [[[2] * 5] * 7] * 2)  # 16 tokens a prompt
    sizes = {
        budget: [len(micro_batch) for micro_batch in split_by_tokens(batch, torch.arange(7), budget)]
        for budget in (15, 16, 47, 48, 112)
    }
    assert sizes == {15: [1] * 7, 16: [1] * 7, 47: [2, 2, 2, 1], 48: [3, 3, 1], 112: [7]}


def test_a_long_prompt_runs_alone_and_short_ones_together() -> None:
    batch = comparison([[1], [1] * 40, [1]], [[[2], [2], [2] * 2]] * 2)
    assert [micro_batch.tolist() for micro_batch in split_by_tokens(batch, torch.arange(3), 12)] == [[1], [2, 0]]


def test_workers_get_equally_many_micro_batches_of_like_size() -> None:
    batch = comparison([[1] * 3] * 8, [[[2] * 5] * 8] * 2)  # 16 tokens a prompt
    rows = torch.arange(8)
    assert [len(micro_batch) for micro_batch in split_by_tokens(batch, rows, None, 2)] == [4, 4]
    assert [len(micro_batch) for micro_batch in split_by_tokens(batch, rows, 6 * 16, 2)] == [2] * 4
    assert [len(micro_batch) for micro_batch in split_by_tokens(batch, rows, 6 * 16)] == [6, 2]
    assert [len(micro_batch) for micro_batch in split_by_tokens(batch, rows[:1], None, 2)] == [1]


def test_micro_batches_of_workers_are_even_in_tokens_rather_than_in_prompts() -> None:
    batch = comparison([[1] * 30, [1] * 9, [1] * 9, [1] * 9], [[[2]] * 4] * 2)
    assert [micro_batch.tolist() for micro_batch in split_by_tokens(batch, torch.arange(4), None, 2)] == [[0], [1, 2, 3]]
