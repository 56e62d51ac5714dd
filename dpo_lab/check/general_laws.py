"""Laws of a loss's values, rewards and gradients, which every loss keeps."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dpo_lab.check.law import EXACT, judged, law, prepared, same, values
from dpo_lab.check.strategies import fixed, numbers_of_candidates, sample
from dpo_lab.check.transforms import collapsed, lowered, padded, rows_of
from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.losses.margins import Margin
from dpo_lab.losses.options import Weighting
from dpo_lab.records import Aggregate, CandidateBatch, Logps


@law()
def value_at_the_reference(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """While the policy equals the reference, a loss is its declared constant, whatever the lengths."""
    constant = loss.value_at_reference(batch.num_candidates)
    if constant is not None:
        start = values(loss, at_reference(logps), batch)
        same(start, torch.full_like(start, constant), "the value while policy and reference are equal")


@law(fixed)
def no_constant_is_left_out(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """A loss that declares no value at the reference has none: its values there differ."""
    for k in numbers_of_candidates(type(loss)):
        many_logps, many_batch = sample(k)
        start = values(loss, at_reference(many_logps), many_batch)
        constant = bool((start - start[0]).abs().max() < EXACT)
        assert not constant or loss.value_at_reference(k) is not None, f"of {k} candidates every value is {start[0]:.9g}"


def at_reference(logps: Logps) -> Logps:
    """The policy is the reference."""
    kl = None if logps.kl is None else torch.zeros_like(logps.kl)
    mismatched = None if logps.mismatched is None else at_reference(logps.mismatched)
    assert logps.reference is not None
    return replace(logps, policy=logps.reference, kl=kl, mismatched=mismatched)


class _HeldConstants(TorchFunctionMode):
    """Replays what the first call detached: for finite differences it must stay as constant as it is for autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.tape: list[Tensor] = []
        self.at: int | None = None

    def again(self) -> None:
        self.at = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.detach:
            return func(*args, **(kwargs or {}))
        if self.at is None:
            self.tape.append(func(*args))
            return self.tape[-1]
        self.at += 1
        return self.tape[self.at - 1]


@law()
def gradient_of_finite_differences(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """The gradient is that of finite differences (at a kink, it lies between the two sides)."""
    ready, draw = prepared(loss, logps, batch), torch.Generator().manual_seed(0)
    weights = 0.5 + torch.rand(len(batch), generator=draw, dtype=torch.float64)
    inputs = {name: getattr(logps, name) for name in ("policy", "kl") if getattr(logps, name) is not None}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    held = _HeldConstants()
    with held:
        here = (weights * ready(replace(logps, **leaves), batch)).sum()
    gradients = torch.autograd.grad(here, list(leaves.values()), allow_unused=True)
    h = 1e-6
    for direction in range(3):
        along = {n: (0.5 + torch.rand(t.shape, generator=draw, dtype=t.dtype)) * logps.mask for n, t in inputs.items()}
        if direction:  # first all tokens together, then each its own way
            along = {n: t * torch.where(torch.rand(t.shape, generator=draw) < 0.5, -1, 1) for n, t in along.items()}
        sides = []
        for by in (h, -h):
            held.again()
            with held:
                moved = {name: tensor + by * along[name] for name, tensor in inputs.items()}
                side = (weights * ready(replace(logps, **moved), batch)).sum()
            sides.append(side.detach())
        up, down = (sides[0] - here.detach()) / h, (here.detach() - sides[1]) / h
        slope = sum(((g * along[n]).sum() for n, g in zip(leaves, gradients, strict=True) if g is not None), torch.zeros(()))
        # Rounding of the values over h, curvature within h, and one side against the other at a kink.
        allowed = 1e-6 * (1 + up.abs() + down.abs()) + 1e-8 * here.detach().abs() + (up - down).abs()
        assert (slope - (up + down) / 2).abs() <= allowed, (
            f"autograd's slope is {slope:.9g}, that of finite differences {(up + down) / 2:.9g}"
        )


@law()
def no_gradient_reaches_the_reference(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Gradients reach the policy, and never the reference."""
    assert logps.reference is not None
    policy, reference = logps.policy.clone().requires_grad_(), logps.reference.clone().requires_grad_()
    total = prepared(loss, logps, batch)(replace(logps, policy=policy, reference=reference), batch).sum()
    assert total.requires_grad, "no gradient reaches the policy"
    _, leak = torch.autograd.grad(total, [policy, reference], allow_unused=True)
    assert leak is None or not leak.any(), f"the reference gets a gradient of {leak.abs().max():.3g}"


@law()
def no_reference_where_none_is_needed(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """A loss with needs_reference=False reads none; one with True says so where there is none."""
    without = replace(logps, reference=None, mismatched=None if loss.needs_mismatched else logps.mismatched)
    if not loss.needs_reference:
        same(values(loss, without, batch), values(loss, logps, batch), "the value without a reference", 0.0)
        same(rewards(loss, without, batch), rewards(loss, logps, batch), "a reward without a reference", 0.0)
        return
    try:
        values(loss, without, batch)
    except AssertionError:
        return
    raise AssertionError("it declares needs_reference=True, but gives a value without one")


def rewards(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
    return prepared(loss, logps, batch).rewards(logps, batch)


@law()
def padding_changes_nothing(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Padding, wherever it stands, changes neither values nor rewards nor the gradient of any token."""
    gradient, m = gradient_of(loss, logps, batch), logps.mask.shape[2]
    for at in (0, (m + 1) // 2):
        wide, wide_batch = padded(logps, batch, at)
        same(values(loss, wide, wide_batch), values(loss, logps, batch), "the value with more padding")
        same(rewards(loss, wide, wide_batch), rewards(loss, logps, batch), "a reward with more padding")
        padded_gradient = gradient_of(loss, wide, wide_batch)
        same(padded_gradient[wide.mask], gradient[logps.mask], "a token's gradient with more padding")


def gradient_of(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b m"]:
    policy = logps.policy.detach().clone().requires_grad_()
    total = prepared(loss, logps, batch)(replace(logps, policy=policy), batch).sum()
    (gradient,) = torch.autograd.grad(total, policy)
    return gradient


@law()
def order_of_prompts(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Prompts in another order have their values and rewards in that order (where prompts share a value, the same sum)."""
    rows = torch.arange(len(batch)).flip(0).roll(1)
    permuted = rows_of(logps, batch, rows)
    expected = values(loss, logps, batch)
    same(judged(loss, values(loss, *permuted)), judged(loss, expected[rows]), "the value in another order of prompts")
    same(rewards(loss, *permuted), rewards(loss, logps, batch)[:, rows], "a reward in another order of prompts")


@law()
def parts_sum_to_the_whole(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """The values of any parts of a batch, an empty one included, sum to those of the whole, unless prompts are coupled."""
    if loss.couples_batch:
        return
    for cut in {0, len(batch) // 2}:
        parts = [values(loss, *rows_of(logps, batch, rows)) for rows in torch.arange(len(batch)).tensor_split([cut])]
        assert [len(part) for part in parts] == [cut, len(batch) - cut], "a value for each prompt"
        same(torch.cat(parts).sum(), values(loss, logps, batch).sum(), f"the sum of parts, cut before prompt {cut}")


@law()
def rewards_are_per_candidate(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """A candidate's reward rises with its own log-probability, and with no other's."""
    ready = prepared(loss, logps, batch)
    before, by = ready.rewards(logps, batch), torch.full_like(batch.confidence, 0.5)
    for candidate in range(len(logps.mask)):
        after = ready.rewards(lowered(loss, logps, batch, by, candidate), batch)
        others = torch.arange(len(before)) != candidate
        same(after[others], before[others], f"a reward after candidate {candidate} became less likely")
        # Far out, a divergence's link is flat to the last digit.
        assert (after[candidate] <= before[candidate]).all(), f"candidate {candidate}'s reward rose as it became less likely"


@law(k=(2,), weighting=Weighting.none, margin=Margin())
def rewards_are_what_is_compared(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Loss and rewards aggregate alike: the rejected completion counts the same as one token that is as likely."""
    if loss.options.aggregate in (Aggregate.sum, Aggregate.mean):
        single = collapsed(loss, logps, batch, candidate=1)
        same(values(loss, *single), values(loss, logps, batch), "the value with the rejected completion as one token")
        same(rewards(loss, *single), rewards(loss, logps, batch), "a reward with the rejected completion as one token")


@law()
def only_observing_changes_state(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Values, rewards and extra metrics change neither the loss nor its state nor their inputs, and are the same when asked
    again; observing gives a new state and leaves the one before as it was.
    """
    ready = prepared(loss, logps, batch)
    state, settings = dict(ready.state), copy.deepcopy(vars(loss))
    inputs = {name: tensor.clone() for name, tensor in vars(logps).items() if isinstance(tensor, Tensor)}
    first = ready(logps, batch)
    ready.rewards(logps, batch)
    loss.extra_metrics(logps, batch, ready.state)
    loss.value_at_reference(batch.num_candidates)
    same(ready(logps, batch), first, "the value, asked again", 0.0)
    after = loss.observe(logps, batch, ready.state)
    assert ready.state == state, f"state went from {state} to {ready.state}"
    assert vars(loss) == settings, "its settings changed"
    for name, before in inputs.items():
        assert torch.equal(before, getattr(logps, name)), f"it changed logps.{name}"
    if not loss.couples_batch:
        assert after == state, "it observes, but does not declare couples_batch"
