"""Every registered loss keeps the laws it declares, and declares those it keeps.

`pytest tests/losses/test_laws.py --user-module my_losses` runs them on your own; `python -m dpo_lab.check` prints them.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lab.check.catalogue import DECLARED, UNIVERSAL
from dpo_lab.check.general_laws import gradient_of
from dpo_lab.check.law import EXACT, Law, same, values
from dpo_lab.check.search import keeps_on_samples
from dpo_lab.check.strategies import comparisons, complete, configured, numbers_of_candidates
from dpo_lab.check.transforms import swapped
from dpo_lab.losses import PairLoss, PreferenceLoss
from dpo_lab.losses.divergences import Divergence, link
from dpo_lab.losses.margins import Margin
from dpo_lab.losses.options import Weighting
from dpo_lab.records import Aggregate, pairs_of

Loss = type[PreferenceLoss]
each_promise = pytest.mark.parametrize("law", DECLARED.values(), ids=list(DECLARED))


@pytest.mark.parametrize("law", UNIVERSAL, ids=lambda law: law.name)
@settings(max_examples=8)  # some 700 tests: the command tries more
@given(data=st.data())
def test_every_loss_keeps(loss_class: Loss, law: Law, data: st.DataObject) -> None:
    if numbers_of_candidates(loss_class, law.candidates):
        law.check(*data.draw(law.drawn(loss_class)))


@each_promise
@settings(max_examples=8)  # some 700 tests: the command tries more
@given(data=st.data())
def test_a_declared_law_holds(loss_class: Loss, law: Law, data: st.DataObject) -> None:
    if getattr(loss_class.laws, law.name):
        law.check(*data.draw(law.drawn(loss_class)))


@each_promise
def test_a_law_that_is_not_declared_does_not_hold(loss_class: Loss, law: Law) -> None:
    keeps = keeps_on_samples(loss_class, law)
    assert keeps == getattr(loss_class.laws, law.name), f"{loss_class.__name__} should declare {law.name}={keeps}"


# Losses of pairs: the shared settings


@given(st.data())
def test_an_uncertain_pair_costs_the_mixture_of_both_orders(loss_class: Loss, data: st.DataObject) -> None:
    if not issubclass(loss_class, PairLoss) or "label_smoothing" in loss_class.unsupported or loss_class.couples_batch:
        return
    plain = {"nll": 0.0, "weighting": Weighting.none, "margin": Margin(), "label_smoothing": 0.0}
    certain = data.draw(configured(loss_class, aggregate=Aggregate.mean, **plain))
    noise = data.draw(st.sampled_from([0.0, 0.1, 0.4]))
    loss = dataclasses.replace(certain, label_smoothing=noise)
    logps, batch = data.draw(comparisons(uncertain=loss_class.reads_confidence))
    (probable,) = batch.preferences()
    right = probable * (1 - noise) + (1 - probable) * noise
    sure = dataclasses.replace(batch, confidence=torch.ones_like(batch.confidence), utilities=None)
    expected = right * values(certain, logps, sure) + (1 - right) * values(certain, *swapped(logps, sure))
    same(values(loss, logps, batch), expected, "the mixture")


@given(st.data())
def test_more_candidates_cost_the_mean_over_their_pairs(loss_class: Loss, data: st.DataObject) -> None:
    if not issubclass(loss_class, PairLoss) or 3 not in numbers_of_candidates(loss_class):
        return
    if (
        loss_class.couples_batch or loss_class.over_pairs is not PairLoss.over_pairs
    ):  # has its own idea of a batch, or of a list
        return
    # What depends on the shortest of all candidates, or on the best of all, is no matter of two.
    plain = {"nll": 0.0, "margin": Margin()}
    loss = data.draw(configured(loss_class, aggregate=data.draw(st.sampled_from([Aggregate.sum, Aggregate.mean])), **plain))
    logps, batch = data.draw(comparisons(k=3))

    def of(pair: list[int]) -> torch.Tensor:
        names = ("policy", "reference", "mask", "kl", "collision")
        two = dataclasses.replace(logps, **{name: getattr(logps, name)[pair] for name in names})
        per_candidate = ("completions", "mask", "scores", "desirable")
        of_two = {name: getattr(batch, name)[pair] for name in per_candidate}
        return values(loss, two, dataclasses.replace(batch, utilities=None, **of_two))

    each = [of(list(pair)) for pair in zip(*(side.tolist() for side in pairs_of(3)), strict=True)]
    same(values(loss, logps, batch), torch.stack(each).mean(dim=0), "the mean over pairs")


@given(st.data())
def test_a_rest_that_counts_in_full_is_the_sum(loss_class: Loss, data: st.DataObject) -> None:
    if issubclass(loss_class, PairLoss) and "aggregate" not in loss_class.unsupported:
        shared = data.draw(configured(loss_class, aggregate=Aggregate.shared, shared_rest=1.0))
        logps, batch = data.draw(comparisons(uncertain=True))
        sums = dataclasses.replace(shared, aggregate=Aggregate.sum, shared_rest=loss_class.shared_rest)
        same(values(shared, logps, batch), values(sums, logps, batch), "shared_rest=1 against the sum")


@given(st.data(), st.integers(1, 4))
def test_means_of_equal_lengths_are_sums_with_beta_over_the_length(loss_class: Loss, data: st.DataObject, n: int) -> None:
    if issubclass(loss_class, PairLoss) and loss_class.laws.scaling and not {"aggregate", "beta"} & set(loss_class.unsupported):
        nats = st.lists(st.floats(-8, -0.03125, width=32), min_size=4 * n, max_size=4 * n)
        policy, reference = (torch.tensor(data.draw(nats), dtype=torch.float64).reshape(2, 2, n) for _ in range(2))
        logps, batch = complete(policy, reference, torch.ones(2, 2, n, dtype=torch.bool))
        means = dataclasses.replace(loss_class(), beta=0.7, aggregate=Aggregate.mean)
        sums = dataclasses.replace(means, beta=0.7 / n, aggregate=Aggregate.sum)
        # A divergence of whole completions has no mean.
        level = dataclasses.replace(logps, kl=torch.zeros_like(policy))
        same(values(means, level, batch), values(sums, level, batch), "means against sums")


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=5))
def test_the_reverse_kl_is_no_link_at_all(ratios: list[float]) -> None:
    given_ratios = torch.tensor(ratios, dtype=torch.float64)
    assert torch.equal(link(given_ratios, Divergence.reverse_kl, 0.5), given_ratios)


@given(st.data(), st.sampled_from(list(Divergence)))
def test_every_link_has_slope_one_at_the_reference_up_to_a_factor_and_rises(data: st.DataObject, kind: Divergence) -> None:
    x = torch.tensor(sorted(data.draw(st.lists(st.floats(-30, 30), min_size=2, max_size=5))), dtype=torch.float64)
    assert (link(x, kind, 0.5).diff() >= 0).all()
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(link(zero, kind, 0.5), zero)
    factor = {Divergence.js: 0.5, Divergence.chi_squared: 2.0}.get(kind, 1.0)
    assert abs(slope.item() - factor) < EXACT


def test_the_side_without_weight_cannot_overflow_a_certain_pair(loss_class: Loss) -> None:
    if issubclass(loss_class, PairLoss):
        policy = torch.tensor([[[-1e-3]], [[-3e4]]])
        logps, batch = complete(policy, torch.full_like(policy, -1e-3), torch.ones(2, 1, 1, dtype=torch.bool))
        assert values(loss_class(), logps, batch).isfinite().all()
        assert gradient_of(loss_class(), logps, batch).isfinite().all()
