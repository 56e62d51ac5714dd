"""Records keep what belongs together together."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from strategies import batches, comparisons

from dpo_lab.losses.aggregates import token_weights
from dpo_lab.records import Aggregate, CandidateBatch, Logps


def furnished(batch: CandidateBatch) -> CandidateBatch:
    """The batch with every optional field present, each value naming its own candidate and row."""
    k, b, m = batch.completions.shape
    numbers = torch.arange(1, k * b * m + 1, dtype=torch.float64).reshape(k, b, m)
    return dataclasses.replace(
        batch,
        ids=torch.arange(b) + 100,
        confidence=torch.linspace(0.5, 1, b, dtype=torch.float64),
        scores=torch.arange(k * b).reshape(k, b).double(),
        desirable=torch.arange(k * b).reshape(k, b) % 2 == 0,
        margin=torch.linspace(-1, 1, b, dtype=torch.float64),
        reference=numbers.where(batch.mask, 0.0),
    )


def differ(batch: CandidateBatch, i: int, j: int) -> bool:
    """Whether two rows have different prompts, or the same laid out differently."""
    same_mask = torch.equal(batch.prompt_mask[i], batch.prompt_mask[j])
    real = batch.prompt_mask[i]
    return not (same_mask and torch.equal(batch.prompt[i][real], batch.prompt[j][real]))


def test_rows_of_one_prompt_do_not_lend_each_other_completions() -> None:
    prompt = torch.tensor([[1], [1], [2], [2], [2], [1]])
    batch = CandidateBatch(
        prompt=prompt,
        prompt_mask=torch.ones_like(prompt, dtype=torch.bool),
        completions=torch.arange(6)[None, :, None],
        mask=torch.ones(1, 6, 1, dtype=torch.bool),
        ids=torch.arange(6),
        confidence=torch.ones(6),
    )
    other = batch.with_mismatched().mismatched
    assert other is not None
    assert other.completions.flatten().tolist() == [2, 2, 5, 5, 5, 2]


@given(batches(), st.data())
def test_a_mismatched_completion_is_another_prompts_and_follows_its_own(drawn: CandidateBatch, data: st.DataObject) -> None:
    alike = torch.cat((drawn.prompt * drawn.prompt_mask, drawn.prompt_mask.long()), dim=1).unique(dim=0)
    if len(alike) < 2:
        with pytest.raises(ValueError, match="at least 2 different prompts"):
            drawn.with_mismatched()
        return
    batch = drawn.with_mismatched()
    rows = torch.tensor(data.draw(st.permutations(range(len(batch)))))
    other = batch.select(rows).to("cpu").mismatched
    assert other is not None
    theirs = [
        [row[mask].tolist() for row, mask in zip(*of, strict=True)] for of in zip(drawn.completions, drawn.mask, strict=True)
    ]
    for new, old in enumerate(rows.tolist()):
        following = next(j % len(batch) for j in range(old + 1, old + len(batch) + 1) if differ(drawn, j % len(batch), old))
        assert other.ids[new] == drawn.ids[old]
        assert other.completions[0, new][other.mask[0, new]].tolist() == theirs[following % len(theirs)][following]


@given(batches(), st.data())
def test_select_keeps_every_field_of_a_row_with_that_row(drawn: CandidateBatch, data: st.DataObject) -> None:
    batch = furnished(drawn)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=1, max_size=4)))
    picked = batch.select(rows)
    assert len(picked) == len(rows)
    assert batch.scores is not None
    assert batch.desirable is not None
    assert batch.reference is not None
    assert picked.scores is not None
    assert picked.desirable is not None
    assert picked.reference is not None
    for new, old in enumerate(rows.tolist()):
        assert picked.ids[new] == batch.ids[old]
        assert picked.confidence[new] == batch.confidence[old]
        assert picked.prompt[new][picked.prompt_mask[new]].equal(batch.prompt[old][batch.prompt_mask[old]])
        for c in range(batch.num_candidates):
            here, there = picked.mask[c, new], batch.mask[c, old]
            assert picked.completions[c, new][here].equal(batch.completions[c, old][there])
            assert picked.reference[c, new][here].equal(batch.reference[c, old][there])
            assert picked.scores[c, new] == batch.scores[c, old]
            assert picked.desirable[c, new] == batch.desirable[c, old]


@given(batches(), st.data())
def test_select_leaves_no_column_of_padding_alone(drawn: CandidateBatch, data: st.DataObject) -> None:
    picked = drawn.select(torch.tensor(data.draw(st.lists(st.integers(0, len(drawn) - 1), min_size=1, max_size=4))))
    assert picked.prompt_mask.any(dim=0).all()
    assert picked.mask.flatten(0, 1).any(dim=0).all()
    assert picked.completions.shape == picked.mask.shape


@given(batches())
def test_select_of_no_rows_is_an_empty_batch(drawn: CandidateBatch) -> None:
    none = furnished(drawn).select(torch.tensor([], dtype=torch.long))
    assert len(none) == 0
    assert none.num_candidates == drawn.num_candidates


@given(batches(), st.booleans())
def test_tensors_and_back_is_the_same_batch(drawn: CandidateBatch, full: bool) -> None:
    batch = furnished(drawn) if full else drawn
    tensors = batch.tensors()
    assert ("scores" in tensors) == ("reference" in tensors) == full
    again = CandidateBatch.from_tensors(tensors)
    for field in dataclasses.fields(batch):
        assert getattr(again, field.name) is getattr(batch, field.name)


def test_to_moves_every_field() -> None:
    batch = furnished(
        CandidateBatch(
            prompt=torch.tensor([[1]]),
            prompt_mask=torch.tensor([[True]]),
            completions=torch.tensor([[[1, 2]]]),
            mask=torch.tensor([[[True, True]]]),
            ids=torch.tensor([0]),
            confidence=torch.ones(1),
        )
    )
    moved = batch.to("meta").tensors()
    assert moved.keys() == batch.tensors().keys()
    assert all(tensor.is_meta for tensor in moved.values())
    assert batch.to("meta").to("meta").on_host() is batch, "reading lengths waits for no device"


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(TypeCheckError):
        Logps(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.ones(2, 3, 5, dtype=torch.bool))


@given(comparisons())
def test_aggregates_are_sums_and_means_over_real_tokens(drawn: tuple[Logps, CandidateBatch]) -> None:
    logps = drawn[0]
    assert logps.reference is not None
    for c, b in [(c, b) for c in range(2) for b in range(logps.policy.shape[1])]:
        real = logps.mask[c, b]
        policy, reference = logps.policy[c, b][real].tolist(), logps.reference[c, b][real].tolist()
        for aggregate, divisor in ((Aggregate.sum, 1), (Aggregate.mean, len(policy))):
            weights = token_weights(aggregate, logps.mask, drawn[1].ids)
            assert logps.policy_logps(weights)[c, b].item() == pytest.approx(sum(policy) / divisor, rel=1e-12)
            assert logps.reference_logps(weights)[c, b].item() == pytest.approx(sum(reference) / divisor, rel=1e-12)
            ratio = (sum(policy) - sum(reference)) / divisor
            assert logps.logratios(weights)[c, b].item() == pytest.approx(ratio, rel=1e-12, abs=1e-12)
        assert logps.lengths[c, b] == len(policy)


@pytest.mark.parametrize("aggregate", Aggregate)
def test_an_empty_completion_has_sum_and_mean_0_and_a_finite_gradient(aggregate: Aggregate) -> None:
    policy = torch.zeros(2, 1, 3, requires_grad=True)
    mask = torch.tensor([[[False] * 3], [[True] * 3]])
    found = Logps(policy, torch.zeros(2, 1, 3), mask).logratios(token_weights(aggregate, mask, torch.zeros(1).long()))
    assert found[0].item() == 0
    (gradient,) = torch.autograd.grad(found.sum(), policy)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("m", [1, 512])
def test_logratios_do_not_cancel_in_float32(m: int) -> None:
    # Sums of -50 * 512 nats have a spacing of .002 in float32; the ratio of .001 a token must survive.
    reference = torch.full((2, 1, m), -50.0)
    policy = reference + torch.tensor(1e-3)
    expected = (policy.double() - reference.double()).sum(dim=2)
    found = Logps(policy, reference, torch.ones(2, 1, m, dtype=torch.bool)).logratios()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("aggregate", Aggregate)
def test_half_precision_is_aggregated_in_float32(dtype: torch.dtype, aggregate: Aggregate) -> None:
    draw = torch.Generator().manual_seed(0)
    policy, reference = ((-20 * torch.rand(2, 2, 64, generator=draw)).to(dtype) for _ in range(2))
    half = Logps(policy, reference, torch.ones(2, 2, 64, dtype=torch.bool))
    full = Logps(policy.float(), reference.float(), half.mask)
    for name in ("policy_logps", "reference_logps", "logratios"):
        weights = token_weights(aggregate, half.mask, torch.arange(2))
        assert getattr(half, name)(weights).dtype == torch.float32
        torch.testing.assert_close(getattr(half, name)(weights), getattr(full, name)(weights), rtol=0, atol=0)
