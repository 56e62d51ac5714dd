"""Every registered loss keeps the laws it declares, and declares those it keeps.

`pytest tests/losses/test_laws.py --user-module my_losses` runs them on your own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from strategies import comparisons, configured, logps_and_batch, wide_pairs
from torch import Tensor

from dpo_lab.losses import Laws, PairLoss, PreferenceLoss
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.ipo import IPOLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps

Loss = type[PreferenceLoss]
Drawn = tuple[Logps, CandidateBatch]
close: Callable[..., None] = torch.testing.assert_close
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64, values up to some hundreds, a dozen operations


def candidates(loss_class: Loss) -> int:
    return loss_class.num_candidates or 2


def declares(loss_class: Loss, law: str) -> bool:
    return getattr(loss_class.laws, law)


def with_aggregate(loss: PreferenceLoss) -> Aggregate:
    return getattr(loss, "aggregate", Aggregate.sum)


def raised(logps: Logps, candidate: int | None, by: Tensor, aggregate: Aggregate, which: str = "policy") -> Logps:
    """The aggregated log-probability of one candidate (None: of all) is higher by `by`, one value for each prompt."""
    first = logps.mask & (logps.mask.cumsum(dim=2) == 1)
    where = logps.mask if aggregate is Aggregate.mean else first
    per_token = where * by[None, :, None]
    if candidate is not None:
        per_token = per_token * (torch.arange(len(per_token)) == candidate)[:, None, None]
    return dataclasses.replace(logps, **{which: getattr(logps, which) + per_token})


def rows_of(logps: Logps, batch: CandidateBatch, rows: Tensor) -> Drawn:
    assert logps.reference is not None
    assert batch.scores is not None
    return logps_and_batch(logps.policy[:, rows], logps.reference[:, rows], logps.mask[:, rows], batch.confidence[rows])


def gap_of(logps: Logps, aggregate: Aggregate) -> Tensor:
    chosen, rejected = logps.logratios(aggregate)
    return chosen - rejected


# Laws that every loss keeps


@given(st.data())
def test_the_value_at_the_reference_is_the_declared_constant(loss_class: Loss, data: st.DataObject) -> None:
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(k=candidates(loss_class), uncertain=True))
    start = dataclasses.replace(logps, policy=logps.reference)
    constant = loss.value_at_reference()
    if constant is not None:
        close(loss(start, batch), torch.full_like(batch.confidence, constant), **EXACT)


def test_a_loss_without_a_value_at_the_reference_has_none(loss_class: Loss) -> None:
    loss = loss_class()
    logps, batch = wide_pairs(k=candidates(loss_class))
    values = loss(dataclasses.replace(logps, policy=logps.reference), batch)
    constant = bool((values - values[0]).abs().max() < 1e-9)
    assert constant == (loss.value_at_reference() is not None)


@settings(max_examples=6)
@given(st.data())
def test_gradients_are_those_of_finite_differences(loss_class: Loss, data: st.DataObject) -> None:
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(k=candidates(loss_class), uncertain=True))

    def of_policy(policy: Tensor) -> Tensor:
        return loss(dataclasses.replace(logps, policy=policy), batch)

    assert torch.autograd.gradcheck(of_policy, logps.policy.clone().requires_grad_())


@given(st.data())
def test_no_gradient_reaches_the_reference(loss_class: Loss, data: st.DataObject) -> None:
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(k=candidates(loss_class), uncertain=True))
    assert logps.reference is not None
    policy, reference = logps.policy.clone().requires_grad_(), logps.reference.clone().requires_grad_()
    loss(Logps(policy, reference, logps.mask), batch).sum().backward()
    assert reference.grad is None or not reference.grad.any()
    assert policy.grad is not None


@given(st.data())
def test_a_loss_that_needs_no_reference_reads_none(loss_class: Loss, data: st.DataObject) -> None:
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(k=candidates(loss_class)))
    without = dataclasses.replace(logps, reference=None)
    if loss.needs_reference:
        with pytest.raises(AssertionError, match="without a reference"):
            loss(without, batch)
    else:
        close(loss(without, batch), loss(logps, batch), rtol=0, atol=0)
        close(loss.rewards(without), loss.rewards(logps), rtol=0, atol=0)


@given(st.data())
def test_a_permuted_batch_has_permuted_values(loss_class: Loss, data: st.DataObject) -> None:
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(k=candidates(loss_class), uncertain=True))
    rows = torch.tensor(data.draw(st.permutations(range(len(batch)))))
    permuted = rows_of(logps, batch, rows)
    permuted[1].scores = batch.scores[:, rows] if batch.scores is not None else None
    close(loss(*permuted), loss(logps, batch)[rows], **EXACT)
    close(loss.rewards(permuted[0]), loss.rewards(logps)[:, rows], **EXACT)


@given(st.data())
def test_the_parts_of_a_batch_sum_to_the_whole(loss_class: Loss, data: st.DataObject) -> None:
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(k=candidates(loss_class), uncertain=True))
    cut = data.draw(st.integers(0, len(batch)))  # 0 and len(batch) make one part empty
    parts = []
    for rows in (torch.arange(cut), torch.arange(cut, len(batch))):
        part = rows_of(logps, batch, rows)
        part[1].scores = batch.scores[:, rows] if batch.scores is not None else None
        parts.append(loss(*part))
        assert parts[-1].shape == (len(rows),)
    close(torch.stack([part.sum() for part in parts]).sum(), loss(logps, batch).sum(), **EXACT)


@given(st.data())
def test_padding_never_changes_a_loss(loss_class: Loss, data: st.DataObject) -> None:
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(k=candidates(loss_class), uncertain=True))
    assert logps.reference is not None
    at = data.draw(st.integers(0, logps.policy.shape[2]))

    def widened(tensor: Tensor) -> Tensor:
        gap = tensor.new_zeros((*tensor.shape[:2], 3))
        return torch.cat((tensor[:, :, :at], gap, tensor[:, :, at:]), dim=2)

    wide, wide_batch = logps_and_batch(widened(logps.policy), widened(logps.reference), widened(logps.mask), batch.confidence)
    close(loss(wide, wide_batch), loss(logps, batch), **EXACT)
    close(loss.rewards(wide), loss.rewards(logps), **EXACT)


@given(st.data())
def test_a_small_step_from_the_reference_raises_the_logged_margin(loss_class: Loss, data: st.DataObject) -> None:
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(k=candidates(loss_class)))
    start = dataclasses.replace(logps, policy=logps.reference)
    assert start.policy is not None
    policy = start.policy.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(dataclasses.replace(start, policy=policy), batch).sum(), policy)
    stepped = dataclasses.replace(start, policy=start.policy - 1e-3 * gradient * logps.mask)
    before, after = loss.rewards(start), loss.rewards(stepped)
    assert (after[0] - after[1] > before[0] - before[1]).all()


@given(st.data())
def test_loss_and_rewards_see_the_same_aggregate(loss_class: Loss, data: st.DataObject) -> None:
    """A completion of one token whose log-probability is the aggregate stands for the whole, in both or in neither."""
    loss = data.draw(configured(loss_class))
    if hasattr(loss, "aggregate"):
        compare_with_one_token(loss, *data.draw(comparisons(k=candidates(loss_class), uncertain=True)))


def compare_with_one_token(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    policy, reference = (of(with_aggregate(loss)) for of in (logps.policy_logps, logps.reference_logps))
    mask = torch.ones_like(policy, dtype=torch.bool)
    one, one_batch = logps_and_batch(policy[:, :, None], reference[:, :, None], mask[:, :, None], batch.confidence)
    close(loss(one, one_batch), loss(logps, batch), **EXACT)
    close(loss.rewards(one), loss.rewards(logps), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(data=st.data())
def test_extremes_give_finite_float32(loss_class: Loss, dtype: torch.dtype, data: st.DataObject) -> None:
    beta = data.draw(st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 100.0]))
    loss = data.draw(configured(loss_class, beta=beta))
    k, m = candidates(loss_class), data.draw(st.sampled_from([1, 3]))
    totals = st.sampled_from([0.0, -1e-4, -1.0, -30.0, -6e4])
    policy, reference = (
        (torch.tensor([[data.draw(totals)] for _ in range(k)])[:, :, None] / m).expand(k, 1, m).to(dtype) for _ in range(2)
    )
    confidence = torch.tensor([data.draw(st.sampled_from([0.0, 0.5, 1.0]))])
    logps, batch = logps_and_batch(policy, reference, torch.ones(k, 1, m, dtype=torch.bool), confidence)
    values, (gradient,) = _value_and_gradient(loss, logps, batch)
    assert values.dtype == loss.rewards(logps).dtype == torch.float32
    assert values.isfinite().all()
    assert loss.rewards(logps).isfinite().all()
    wide = Logps(logps.policy.double(), logps.reference.double() if logps.reference is not None else None, logps.mask)
    _, (true_gradient,) = _value_and_gradient(loss, wide, batch)
    representable = true_gradient.abs() < torch.finfo(dtype).max  # ipo at beta 1e-6 has slope 1e6; float16 ends at 65504
    assert gradient[representable].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(data=st.data())
def test_half_precision_inputs_are_computed_with_in_float32(loss_class: Loss, dtype: torch.dtype, data: st.DataObject) -> None:
    loss = data.draw(configured(loss_class))
    logps, batch = data.draw(comparisons(k=candidates(loss_class)))
    assert logps.reference is not None
    batch.confidence = batch.confidence.float()
    half = Logps(logps.policy.to(dtype), logps.reference.to(dtype), logps.mask)
    full = Logps(half.policy.float(), logps.reference.to(dtype).float(), logps.mask)
    close(loss(half, batch), loss(full, batch), rtol=0, atol=0)
    close(loss.rewards(half), loss.rewards(full), rtol=0, atol=0)


def _value_and_gradient(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
    policy = logps.policy.detach().clone().requires_grad_()
    values = loss(dataclasses.replace(logps, policy=policy), batch)
    return values, torch.autograd.grad(values.sum(), policy)


# Laws that a loss declares


def breaks_shift(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> bool:
    """One constant on all candidates' policy, or on all candidates' reference, changes the value of some prompt."""
    for which in ("policy", "reference"):
        shifted = raised(logps, None, torch.linspace(-3, 5, len(batch), dtype=torch.float64), with_aggregate(loss), which)
        if not torch.allclose(loss(shifted, batch), loss(logps, batch), rtol=1e-8, atol=1e-8):
            return True
    return False


def breaks_monotone(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> bool:
    """Some value rises as the chosen completion becomes more likely, or the rejected one less."""
    step = torch.linspace(0.01, 5, len(batch), dtype=torch.float64)
    before = loss(logps, batch)
    for candidate, by in ((0, step), (1, -step)):
        after = loss(raised(logps, candidate, by, with_aggregate(loss)), batch)
        if (after > before + 1e-9 * (1 + before.abs())).any():
            return True
    return False


def breaks_convex(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> bool:
    """Some value lies above the chord between a higher and a lower log-probability of a candidate."""
    step = torch.linspace(0.01, 20, len(batch), dtype=torch.float64)
    middle = loss(logps, batch)
    for candidate in (0, 1):
        ends = [loss(raised(logps, candidate, by, with_aggregate(loss)), batch) for by in (step, -step)]
        if (middle > (ends[0] + ends[1]) / 2 + 1e-9 * (1 + middle.abs())).any():
            return True
    return False


BREAKS = {"shift_invariant": breaks_shift, "monotone": breaks_monotone, "convex": breaks_convex}
each_law = pytest.mark.parametrize("law", BREAKS)


def test_every_law_that_can_be_declared_is_tested() -> None:
    assert {field.name for field in dataclasses.fields(Laws)} == set(BREAKS)


@each_law
@given(data=st.data())
def test_a_declared_law_holds(loss_class: Loss, law: str, data: st.DataObject) -> None:
    if declares(loss_class, law):
        # Which way is up is only certain where the labels are.
        fixed: dict[str, Any] = {"label_smoothing": 0.0} if law == "monotone" else {}
        loss = data.draw(configured(loss_class, **fixed))
        drawn = data.draw(comparisons(k=candidates(loss_class), uncertain=law != "monotone"))
        assert not BREAKS[law](loss, *drawn), f"{loss} declares {law}"


@each_law
def test_a_law_that_is_not_declared_does_not_hold(loss_class: Loss, law: str) -> None:
    broken = BREAKS[law](loss_class(), *wide_pairs(k=candidates(loss_class)))
    assert broken == (not declares(loss_class, law)), f"{loss_class.__name__} should declare {law}={not broken}"


@given(st.data())
def test_a_shift_invariant_loss_sees_log_ratios_only(loss_class: Loss, data: st.DataObject) -> None:
    if loss_class.laws.shift_invariant and loss_class.needs_reference:
        loss = data.draw(configured(loss_class))
        logps, batch = data.draw(comparisons(k=candidates(loss_class), uncertain=True))
        by = torch.linspace(-4, 3, len(batch), dtype=torch.float64)
        moved = raised(raised(logps, 0, by, Aggregate.sum), 0, by, Aggregate.sum, "reference")
        close(loss(moved, batch), loss(logps, batch), **EXACT)


# Losses of pairs


def swapped(logps: Logps) -> Logps:
    assert logps.reference is not None
    return Logps(logps.policy.flip(0), logps.reference.flip(0), logps.mask.flip(0))


@given(st.data())
def test_swapped_labels_negate_the_margin(loss_class: Loss, data: st.DataObject) -> None:
    if issubclass(loss_class, PairLoss):
        loss = data.draw(configured(loss_class))
        logps, _ = data.draw(comparisons())
        (chosen, rejected), (other_chosen, other_rejected) = loss.rewards(logps), loss.rewards(swapped(logps))
        close(chosen - rejected, other_rejected - other_chosen, **EXACT)


@given(st.data())
def test_a_pair_loss_is_a_function_of_the_logged_margin(loss_class: Loss, data: st.DataObject) -> None:
    if issubclass(loss_class, PairLoss):
        loss = data.draw(configured(loss_class, label_smoothing=0.0))
        assert isinstance(loss, PairLoss)
        logps, batch = data.draw(comparisons())
        chosen, rejected = loss.rewards(logps)
        close(loss(logps, batch), loss.of_gap((chosen - rejected) / loss.beta), **EXACT)


@given(st.data())
def test_an_uncertain_pair_costs_the_mixture_of_both_orders(loss_class: Loss, data: st.DataObject) -> None:
    if issubclass(loss_class, PairLoss):
        noise = data.draw(st.sampled_from([0.0, 0.1, 0.4]))
        loss, certain = (
            data.draw(configured(loss_class, beta=0.5, aggregate=Aggregate.sum, label_smoothing=e)) for e in (noise, 0.0)
        )
        logps, batch = data.draw(comparisons(uncertain=True))
        sure = dataclasses.replace(batch, confidence=torch.ones_like(batch.confidence))
        right = batch.confidence * (1 - noise) + (1 - batch.confidence) * noise
        expected = right * certain(logps, sure) + (1 - right) * certain(swapped(logps), sure)
        close(loss(logps, batch), expected, **EXACT)


def test_the_side_without_weight_cannot_overflow_a_certain_pair(loss_class: Loss) -> None:
    if issubclass(loss_class, PairLoss):
        policy = torch.tensor([[[0.0]], [[-3e4]]])
        logps, batch = logps_and_batch(policy, torch.zeros_like(policy), torch.ones(2, 1, 1, dtype=torch.bool))
        values, (gradient,) = _value_and_gradient(loss_class(), logps, batch)
        assert values.isfinite().all()
        assert gradient.isfinite().all()


# DPO


@given(st.data())
def test_dpo_swap_costs_exactly_the_scaled_gap(data: st.DataObject) -> None:
    loss = data.draw(configured(DPOLoss, label_smoothing=0.0))
    logps, batch = data.draw(comparisons())
    close(loss(logps, batch) - loss(swapped(logps), batch), -loss.beta * gap_of(logps, loss.aggregate), **EXACT)


@given(st.data())
def test_dpo_gradient_is_the_closed_form(data: st.DataObject) -> None:
    loss = data.draw(configured(DPOLoss, label_smoothing=0.0))
    logps, batch = data.draw(comparisons())
    _, (gradient,) = _value_and_gradient(loss, logps, batch)
    per_sequence = -loss.beta * torch.sigmoid(-loss.beta * gap_of(logps, loss.aggregate))
    lengths = logps.lengths if loss.aggregate is Aggregate.mean else torch.ones_like(logps.lengths)
    for candidate, sign in ((0, 1), (1, -1)):
        expected = (sign * per_sequence / lengths[candidate])[:, None].expand_as(gradient[candidate])
        real = logps.mask[candidate]
        close(gradient[candidate][real], expected[real], **EXACT)


@given(st.data(), st.sampled_from([1e-3, 0.1, 5.0, 50.0]))
def test_dpo_depends_on_beta_times_gap(data: st.DataObject, beta: float) -> None:
    logps, batch = data.draw(comparisons())
    assert logps.reference is not None
    scaled = Logps(beta * logps.policy, beta * logps.reference, logps.mask)
    close(DPOLoss(beta=beta)(logps, batch), DPOLoss(beta=1.0)(scaled, batch), **EXACT)


@given(comparisons())
def test_dpo_is_log_2_for_small_beta_and_the_hinge_of_the_gap_for_large(drawn: Drawn) -> None:
    logps, batch = drawn
    gap = gap_of(logps, Aggregate.sum)
    # log(1 + e^-x) - log 2 = -x/2 + O(x^2) and |x| <= 64e-9; above the hinge lies at most log(2) / beta.
    close(DPOLoss(beta=1e-9)(logps, batch), torch.full_like(gap, math.log(2)), rtol=0, atol=4e-8)
    close(DPOLoss(beta=1e6)(logps, batch) / 1e6, torch.relu(-gap), rtol=0, atol=1e-6)


@given(st.data())
def test_dpo_lies_within_log_2_above_its_hinge(data: st.DataObject) -> None:
    loss = data.draw(configured(DPOLoss, label_smoothing=0.0))
    logps, batch = data.draw(comparisons(lowest=-200.0))
    hinge = torch.relu(-loss.beta * gap_of(logps, loss.aggregate))
    values = loss(logps, batch)
    assert (values >= hinge - 1e-12).all()
    assert (values <= hinge + math.log(2) + 1e-12).all()


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("source", ["label_smoothing", "confidence"])
def test_conservative_dpo_is_least_at_the_log_odds_with_the_entropy_as_value(noise: float, source: str) -> None:
    beta = 0.5
    best = math.log((1 - noise) / noise)
    entropy = -noise * math.log(noise) - (1 - noise) * math.log(1 - noise)
    x = best + torch.tensor([0.0, -1e-3, 1e-3, -3.0, 3.0], dtype=torch.float64)
    policy = torch.stack((x / beta, torch.zeros_like(x)))[:, :, None]
    mask = torch.ones(2, 5, 1, dtype=torch.bool)
    certain = torch.full((5,), 1.0 - noise if source == "confidence" else 1.0, dtype=torch.float64)
    loss = DPOLoss(beta=beta, label_smoothing=noise if source == "label_smoothing" else 0.0)
    logps, batch = logps_and_batch(policy, torch.zeros_like(policy), mask, certain)
    values, (gradient,) = _value_and_gradient(loss, logps, batch)
    assert values[0].item() == pytest.approx(entropy, rel=1e-12)
    assert (values[1:] > values[0]).all()
    assert gradient[:, 0].abs().max() < 1e-12


def test_confidence_belongs_to_its_own_pair() -> None:
    policy = torch.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)[:, :, None]
    confidence = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    logps, batch = logps_and_batch(policy, torch.zeros_like(policy), torch.ones(2, 3, 1, dtype=torch.bool), confidence)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    expected = torch.tensor([right, (right + wrong) / 2, wrong], dtype=torch.float64)
    close(DPOLoss(beta=1.0)(logps, batch), expected, **EXACT)


@given(st.data(), st.integers(1, 5))
def test_dpo_of_means_is_dpo_of_sums_with_beta_over_the_length(data: st.DataObject, n: int) -> None:
    nats = st.lists(st.floats(-8, 0, width=32), min_size=4 * n, max_size=4 * n)
    policy, reference = (torch.tensor(data.draw(nats), dtype=torch.float64).reshape(2, 2, n) for _ in range(2))
    logps, batch = logps_and_batch(policy, reference, torch.ones(2, 2, n, dtype=torch.bool))
    means, sums = DPOLoss(beta=0.7, aggregate=Aggregate.mean), DPOLoss(beta=0.7 / n)
    close(means(logps, batch), sums(logps, batch), **EXACT)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_constants_at_the_reference_are_those_of_the_catalogue(beta: float) -> None:
    assert DPOLoss(beta=beta).value_at_reference() == pytest.approx(math.log(2), rel=1e-12)
    assert IPOLoss(beta=beta).value_at_reference() == pytest.approx(1 / (4 * beta**2), rel=1e-12)


# IPO


@given(st.data())
def test_ipo_swap_costs_twice_the_gap_over_beta(data: st.DataObject) -> None:
    loss = data.draw(configured(IPOLoss, label_smoothing=0.0))
    logps, batch = data.draw(comparisons())
    close(loss(logps, batch) - loss(swapped(logps), batch), -2 * gap_of(logps, loss.aggregate) / loss.beta, **EXACT)


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
def test_ipo_is_a_parabola_of_curvature_2_that_is_0_at_its_target(beta: float) -> None:
    target = 1 / (2 * beta)
    gap = target + torch.tensor([0.0, 0.5, -0.5, 7.0], dtype=torch.float64)
    gap.requires_grad_()
    values = IPOLoss(beta=beta).of_gap(gap)
    close(values, torch.tensor([0.0, 0.25, 0.25, 49.0], dtype=torch.float64), **EXACT)
    (slope,) = torch.autograd.grad(values.sum(), gap, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), gap)
    assert slope[0].abs() < 1e-12
    close(curvature, torch.full_like(curvature, 2.0), **EXACT)


# What is refused


@pytest.mark.parametrize(
    "field", [{"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}]
)
def test_values_outside_their_range_are_refused_by_name(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"loss\.{next(iter(field))} must be .*, got"):
        DPOLoss(**field)


# The laws themselves can fail


@dataclass
class Hinge(PairLoss):
    """A user's loss, honest."""

    name: str = "hinge of the tests"
    laws: ClassVar[Laws] = Laws(shift_invariant=True, monotone=True, convex=True)

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return torch.relu(1 - self.beta * gap)


@dataclass
class Silent(Hinge):
    """Keeps laws that it does not declare."""

    name: str = "silent"
    laws: ClassVar[Laws] = Laws()


@dataclass
class Boastful(PreferenceLoss):
    """Declares every law, keeps none."""

    name: str = "boastful"
    laws: ClassVar[Laws] = Laws(shift_invariant=True, monotone=True, convex=True)

    def __call__(self, logps: Logps, batch: CandidateBatch) -> Tensor:
        return torch.sin(logps.policy_logps()[0])

    def rewards(self, logps: Logps) -> Tensor:
        return logps.policy_logps()


@dataclass
class WrongRewards(DPOLoss):
    """Compares means and logs sums."""

    name: str = "wrong rewards"
    aggregate: Aggregate = Aggregate.mean

    def rewards(self, logps: Logps) -> Tensor:
        return self.beta * logps.logratios(Aggregate.sum)


@each_law
def test_an_honest_loss_of_a_user_passes(law: str) -> None:
    test_a_law_that_is_not_declared_does_not_hold(Hinge, law)


@each_law
def test_a_missing_declaration_is_noticed(law: str) -> None:
    with pytest.raises(AssertionError, match=f"Silent should declare {law}=True"):
        test_a_law_that_is_not_declared_does_not_hold(Silent, law)


@each_law
def test_a_false_declaration_is_noticed(law: str) -> None:
    with pytest.raises(AssertionError, match=f"Boastful should declare {law}=False"):
        test_a_law_that_is_not_declared_does_not_hold(Boastful, law)


def test_rewards_that_are_not_what_the_loss_compares_are_noticed() -> None:
    compare_with_one_token(DPOLoss(), *wide_pairs())
    with pytest.raises(AssertionError, match="not close"):
        compare_with_one_token(WrongRewards(), *wide_pairs())
