"""The laws that a loss may declare (see `Laws`). One that it does not declare must be broken by some comparison.

They are promises about the default settings, at any beta and any aggregate that the loss supports. The state, in which a loss
adapts to the step, follows the comparison; where single values are compared before and after a move it stays as it was.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.check.general_laws import at_reference, gradient_of
from dpo_lab.check.law import EXACT, judged, law, prepared, same, values
from dpo_lab.check.strategies import admitted, promises
from dpo_lab.check.transforms import lowered, rows_of, scaled, swapped
from dpo_lab.losses import PreferenceLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps

WIDE = 1e-8  # moves by some nats of log-probabilities of some hundred


def steps(batch: CandidateBatch, least: float, most: float) -> Float[Tensor, " b"]:
    """One move for each prompt, in nats."""
    return torch.linspace(least, most, len(batch), dtype=torch.float64)


@law(promises)
def shift_invariant(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """One constant added to all candidates' log-probabilities, under the policy or the reference, changes nothing."""
    before, by = values(loss, logps, batch), steps(batch, 1.0, 4.0)
    for which in ("policy", "reference") if loss.needs_reference else ("policy",):
        after = values(loss, lowered(loss, logps, batch, by, which=(which,)), batch)
        same(after, before, f"with all candidates' {which} log-probabilities lower by {by[0]:.3g} or more", WIDE)


@law(promises)
def ratios_only(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """One constant added to the log-probability of one candidate under policy and reference both changes nothing."""
    before, by = values(loss, logps, batch), steps(batch, 0.5, 4.0)
    for candidate in range(len(logps.mask)):
        after = values(loss, lowered(loss, logps, batch, by, candidate, ("policy", "reference")), batch)
        same(after, before, f"with candidate {candidate} less likely under policy and reference alike", WIDE)


@law(promises)
def scaling(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """beta and the log-probabilities enter as their product only."""
    for by in (0.5, 3.0):
        other = admitted(loss, "beta", loss.beta * by) or loss
        what = f"at beta {other.beta:.3g} instead of {loss.beta:.3g}, all log-probabilities times {1 / by:.3g}"
        same(values(other, scaled(logps, 1 / by), batch), values(loss, logps, batch), what, WIDE)


@law(promises, k=(1, 2), uncertain=False)
def monotone(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Never rises as the chosen completion becomes more likely, or the rejected one less."""
    ready, by = prepared(loss, logps, batch), steps(batch, 0.01, 5.0)
    here = ready(logps, batch)
    for candidate in range(len(logps.mask)):
        moved = ready(lowered(loss, logps, batch, by, candidate), batch)
        if len(logps.mask) == 1 and batch.desirable is not None:  # single completions, of which it is known which are good
            sign = torch.where(batch.desirable[0], 1, -1)
            never_rises(loss, sign * moved, sign * here, "as a single completion became more likely (less, if undesirable)")
        elif candidate == 0:
            never_rises(loss, moved, here, "as the chosen completion became more likely")
        else:
            never_rises(loss, here, moved, "as the rejected completion became less likely")


def never_rises(loss: PreferenceLoss, before: Float[Tensor, " b"], after: Float[Tensor, " b"], when: str) -> None:
    before, after = judged(loss, before), judged(loss, after)
    excess = after - before - EXACT * (1 + before.abs())
    assert not (excess > 0).any(), f"rose from {before[excess.argmax()]:.9g} to {after[excess.argmax()]:.9g} {when}"


@law(promises)
def convex(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """In the log-probability of each candidate."""
    ready, by = prepared(loss, logps, batch), steps(batch, 0.01, 20.0)
    here = judged(loss, ready(logps, batch))
    for candidate in range(len(logps.mask)):
        middle, far = (judged(loss, ready(lowered(loss, logps, batch, times * by, candidate), batch)) for times in (1.0, 2.0))
        chord = (here + far) / 2
        excess = middle - chord - EXACT * (1 + here.abs() + far.abs())
        at = int(excess.argmax())
        where = f"halfway between two log-probabilities of candidate {candidate}"
        assert not (excess > 0).any(), f"{middle[at]:.9g} {where}, above the chord's {chord[at]:.9g}"


@law(promises, k=(2,), uncertain=False)
def swap_linear(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """L(chosen, rejected) - L(rejected, chosen) is proportional to the difference of the two rewards."""
    if loss.options.aggregate is Aggregate.sampled:
        return  # the other order draws other tokens
    differences, margins = [], []
    for by in (0.0, 3.0):
        moved = lowered(loss, logps, batch, by * steps(batch, 1.0, 2.0), 0)
        ready = prepared(loss, moved, batch)
        chosen, rejected = ready.rewards(moved, batch)
        differences.append(ready(moved, batch) - ready(*swapped(moved, batch)))
        margins.append(chosen - rejected)
    difference, margin = torch.cat(differences), torch.cat(margins)
    slope = difference[margin.abs().argmax()] / margin[margin.abs().argmax()]
    assert slope.abs() > EXACT, "swapping the labels changes nothing, whatever the rewards"
    same(difference, slope * margin, f"L(chosen, rejected) - L(rejected, chosen), {slope:.6g} times the margin elsewhere", WIDE)


@law(promises, k=(2,), uncertain=False)
def raises_margin(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """A small step down the gradient, from where the policy equals the reference, lowers no prompt's margin and raises some."""
    start = at_reference(logps)
    gradient = gradient_of(loss, start, batch) * logps.mask
    policy = start.policy - 1e-4 * gradient / gradient.abs().max().clamp(min=1e-12)
    ready = prepared(loss, start, batch)
    before, after = (ready.rewards(which, batch) for which in (start, replace(start, policy=policy)))
    change = (after[0] - after[1]) - (before[0] - before[1])
    assert (change >= -EXACT).all(), f"the margin fell by {-change.min():.3g}"
    assert len(batch) < 16 or (change > 0).any(), "no margin rises"  # of few, all may be satisfied already


@law(promises)
def rowwise(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """A prompt's value does not depend on the other prompts of the batch."""
    together = values(loss, logps, batch)
    half = len(batch) // 2
    for begin, end in ((0, half), (half, len(batch))):
        rows = torch.arange(begin, end)
        if len(rows):
            same(values(loss, *rows_of(logps, batch, rows)), together[rows], "the value without the other prompts")
    if len(batch) > 1:
        same(values(loss, *rows_of(logps, batch, torch.arange(1))), together[:1], "the value without the other prompts")


@law(promises)
def nonnegative(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Never below 0."""
    least = values(loss, logps, batch).min()
    assert least >= -EXACT, f"a value of {least:.9g}"
