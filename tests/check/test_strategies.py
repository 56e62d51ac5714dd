"""What the laws are tested on is what it says; otherwise they are tested on less."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from dpo_lab.check.strategies import OPTIONS, comparisons, configured, numbers_of_candidates, sample, strengths, wide_pairs
from dpo_lab.check.transforms import collapsed, lowered, padded, rows_of, swapped
from dpo_lab.losses import PreferenceLoss
from dpo_lab.losses.divergences import Divergence
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.sft import SFTLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps

Drawn = tuple[Logps, CandidateBatch]
any_comparison = st.sampled_from([1, 2, 3]).flatmap(lambda k: comparisons(k=k, uncertain=True))


@given(any_comparison)
def test_comparisons_hold_all_that_a_loss_may_read(drawn: Drawn) -> None:
    logps, batch = drawn
    assert logps.reference is not None
    assert logps.kl is not None
    assert logps.collision is not None
    assert logps.mismatched is not None
    assert batch.scores is not None
    assert batch.desirable is not None
    assert batch.margin is not None
    real = logps.mask
    assert (logps.lengths >= 1).all()
    assert (logps.mismatched.lengths >= 1).all()
    for of in (logps.policy, logps.reference, logps.kl, logps.collision):
        assert (of[~real] == 0).all()
    assert (logps.policy[real] < 0).all()
    assert (logps.kl >= 0).all()
    assert (logps.collision <= 0).all()
    assert (logps.collision >= 2 * logps.policy).all()  # the token's own p^2 is one of the sum
    assert (batch.scores.diff(dim=0) < 0).all()  # best first, no ties
    if batch.num_candidates > 1:
        assert batch.desirable[0].all()
        assert not batch.desirable[1:].any()
    assert ((batch.confidence >= 0) & (batch.confidence <= 1)).all()


def test_wide_pairs_have_gaps_of_both_signs_from_small_to_large() -> None:
    chosen, rejected = wide_pairs()[0].logratios()
    gap = chosen - rejected
    assert gap.min() < -50
    assert gap.max() > 50
    assert gap.abs().min() < 0.05


def test_the_sample_has_many_prompts_of_different_lengths() -> None:
    logps, batch = sample(2)
    assert len(batch) > 40
    assert {(a, b) for a, b in logps.lengths.T.tolist()} >= {(1, 3), (3, 1), (2, 2)}


NEEDED_BY: dict[str, dict[str, Any]] = {
    "shared_rest": {"aggregate": Aggregate.shared},
    "divergence_alpha": {"divergence": Divergence.alpha},
}
"""Without these the setting is drawn once in a hundred, and a search may miss it."""


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OPTIONS.items() for value in values], ids=str)
def test_every_value_of_every_setting_is_drawn(name: str, value: object) -> None:
    drawn = configured(DPOLoss, **NEEDED_BY.get(name, {}))
    find(drawn, lambda loss: getattr(loss, name) == value, settings=settings(max_examples=2000, derandomize=True))


@given(configured(SFTLoss, beta=7.0, label_smoothing=0.3))
def test_what_a_loss_refuses_is_not_drawn(loss: PreferenceLoss) -> None:
    assert (loss.beta, loss.label_smoothing) == (1.0, 0.0)


def test_a_loss_is_tried_on_as_many_candidates_as_it_takes() -> None:
    assert numbers_of_candidates(DPOLoss) == [2, 3]
    assert numbers_of_candidates(SFTLoss) == [2, 1, 3]
    assert numbers_of_candidates(SFTLoss, (2,)) == [2]


@given(st.data(), any_comparison)
def test_lowered_lowers_one_aggregate_by_as_much_and_no_other(data: st.DataObject, drawn: Drawn) -> None:
    logps, batch = drawn
    loss = data.draw(strengths(SFTLoss))
    weights = loss.token_weights(logps, batch)
    by = torch.linspace(0.5, 2, len(batch), dtype=torch.float64)
    change = lowered(loss, logps, batch, by, 0).policy_logps(weights) - logps.policy_logps(weights)
    torch.testing.assert_close(change[0], -by, rtol=1e-12, atol=1e-12)
    assert (change[1:] == 0).all()


@given(any_comparison)
def test_padding_swapping_twice_and_all_rows_lose_nothing(drawn: Drawn) -> None:
    logps, batch = drawn
    wide, _ = padded(logps, batch, 1)
    assert torch.equal(wide.policy[wide.mask], logps.policy[logps.mask])
    assert wide.policy.shape[2] == logps.policy.shape[2] + 3
    for again, batch_again in (swapped(*swapped(logps, batch)), rows_of(logps, batch, torch.arange(len(batch)))):
        assert all(torch.equal(getattr(again, name), getattr(logps, name)) for name in ("policy", "reference", "mask", "kl"))
        assert torch.equal(batch_again.scores, batch.scores)  # type: ignore[arg-type]


@given(comparisons())
def test_a_collapsed_completion_is_one_token_that_is_as_likely(drawn: Drawn) -> None:
    loss = DPOLoss(aggregate=Aggregate.mean)
    one, batch = collapsed(loss, *drawn, candidate=1)
    assert (one.lengths[1] == 1).all()
    torch.testing.assert_close(one.logratios()[1], loss.logratios(*drawn)[1], rtol=1e-12, atol=1e-12)
    assert torch.equal(one.policy[0], drawn[0].policy[0])
    assert torch.equal(batch.mask, one.mask)
