"""How the tokens of a completion are counted."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dpo_lab.check.strategies import comparisons
from dpo_lab.check.transforms import padded, rows_of
from dpo_lab.losses.aggregates import token_weights
from dpo_lab.records import Aggregate, CandidateBatch, Logps

Drawn = tuple[Logps, CandidateBatch]
weighing = st.sampled_from([Aggregate.mean, Aggregate.shared, Aggregate.sampled])
some = st.sampled_from([1, 2, 3]).flatmap(lambda k: comparisons(k=k))


def weights_of(aggregate: Aggregate, logps: Logps, batch: CandidateBatch, rest: float = 0.25) -> Tensor:
    found = token_weights(aggregate, logps.mask, batch.ids, step=batch.step, rest=rest)
    assert found is not None
    return found


def test_a_sum_has_no_weights() -> None:
    assert token_weights(Aggregate.sum, torch.ones(2, 3, 4, dtype=torch.bool), torch.arange(3)) is None


@given(some, weighing)
def test_padding_weighs_nothing_and_moves_no_weight(drawn: Drawn, aggregate: Aggregate) -> None:
    logps, batch = drawn
    weights = weights_of(aggregate, logps, batch)
    assert (weights[~logps.mask] == 0).all()
    for at in range(logps.mask.shape[2] + 1):
        wide = padded(logps, batch, at)
        assert torch.equal(weights_of(aggregate, *wide)[wide[0].mask], weights[logps.mask])


@given(some, weighing)
def test_a_prompts_weights_do_not_depend_on_its_batch(drawn: Drawn, aggregate: Aggregate) -> None:
    together = weights_of(aggregate, *drawn)
    for row in range(len(drawn[1])):
        alone = weights_of(aggregate, *rows_of(*drawn, torch.tensor([row])))
        assert torch.equal(alone, together[:, [row]])


@given(some)
def test_means_weigh_every_token_the_same_and_one_in_all(drawn: Drawn) -> None:
    logps, batch = drawn
    weights = weights_of(Aggregate.mean, logps, batch)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones_like(weights[:, :, 0]))
    assert (weights.amax(dim=2) * logps.lengths - 1).abs().max() < 1e-12


def test_an_empty_completion_has_the_mean_0() -> None:
    assert not weights_of(Aggregate.mean, *empty()).any()


def empty() -> Drawn:
    nothing = torch.zeros(1, 1, 2, dtype=torch.float64)
    mask = torch.zeros(1, 1, 2, dtype=torch.bool)
    one = torch.ones(1, dtype=torch.float64)
    prompt = torch.zeros(1, 1, dtype=torch.long)
    batch = CandidateBatch(prompt, prompt == 0, torch.zeros(1, 1, 2, dtype=torch.long), mask, torch.arange(1), one)
    return Logps(nothing, nothing, mask), batch


@given(some, st.sampled_from([0.0, 0.25, 1.0]))
def test_shared_counts_the_first_tokens_in_full_and_the_rest_in_part(drawn: Drawn, rest: float) -> None:
    logps, batch = drawn
    weights = weights_of(Aggregate.shared, logps, batch, rest)
    for b in range(len(batch)):
        shortest = int(logps.lengths[:, b].min())
        for k, length in enumerate(logps.lengths[:, b].tolist()):
            expected = [1.0] * shortest + [rest] * (length - shortest)
            assert weights[k, b][logps.mask[k, b]].tolist() == expected


@given(some, st.integers(0, 10**9), st.integers(0, 10**6))
def test_sampled_keeps_as_many_tokens_as_the_shortest_candidate_has(drawn: Drawn, first_id: int, step: int) -> None:
    logps, batch = drawn
    batch = dataclasses.replace(batch, ids=batch.ids + first_id, step=step)
    weights = weights_of(Aggregate.sampled, logps, batch)
    assert set(weights.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(weights.sum(dim=2).long(), logps.lengths.amin(dim=0).expand_as(logps.lengths))


@given(some)
def test_policy_and_reference_are_counted_by_the_same_tokens(drawn: Drawn) -> None:
    logps, batch = drawn
    weights = weights_of(Aggregate.sampled, logps, batch)
    difference = logps.policy_logps(weights) - logps.reference_logps(weights)
    torch.testing.assert_close(logps.logratios(weights), difference, rtol=1e-12, atol=1e-12)


LONG = torch.ones(2, 64, 8, dtype=torch.bool)
LONG[1, :, 3:] = False  # 3 of 8 tokens are kept


@pytest.mark.parametrize("varied", ["step", "id"])
def test_another_step_or_prompt_draws_other_tokens(varied: str) -> None:
    ids = torch.arange(64)
    here = token_weights(Aggregate.sampled, LONG, ids)
    there = token_weights(Aggregate.sampled, LONG, ids + 64 * (varied == "id"), step=varied == "step")
    assert here is not None
    assert there is not None
    same = (here[0] == there[0]).all(dim=1).float().mean()
    assert same < 0.15  # two draws of 3 out of 8 agree once in 56
    assert torch.equal(here, token_weights(Aggregate.sampled, LONG, ids))  # type: ignore[arg-type]


def test_every_token_and_every_pair_of_tokens_is_drawn_as_often() -> None:
    ids = torch.arange(64)
    kept = torch.cat([token_weights(Aggregate.sampled, LONG, ids, step=step)[0] for step in range(200)])  # type: ignore[index]
    num = len(kept)  # 12800 draws of 3 out of 8: a token is in 3/8 of them, two tokens in 3/28
    both = (kept.T @ kept) / num
    for chance, found in ((3 / 8, both.diagonal()), (3 / 28, both[~torch.eye(8, dtype=torch.bool)])):
        spread = (chance * (1 - chance) / num) ** 0.5
        assert (found - chance).abs().max() < 4.5 * spread
