"""Everything a loss reads of policy and reference, for one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.scoring.logps import Logits, Scoring, logps_of_logits, score, score_with
from dpo_lab.training.references.base import Reference

POSITIONS_AT_ONCE = 2048
"""Whole distributions of policy and reference are compared in portions of so many positions."""


def measure(
    policy: nn.Module,
    batch: CandidateBatch,
    loss: PreferenceLoss,
    reference: Reference | None,
    scoring: Scoring | None = None,
) -> Logps:
    """The log-probabilities of a batch, with whatever else of the next-token distributions the loss reads.

    Each model is run once, and distributions over the vocabulary do not outlive the positions they belong to.
    """
    scoring = scoring or Scoring()
    mismatched = None
    if loss.needs_mismatched and batch.mismatched is not None:
        with torch.no_grad():
            other = batch.mismatched
            mismatched = Logps(score(policy, other, scoring), reference(other) if reference is not None else None, other.mask)
    if loss.needs_kl:
        assert reference is not None, f"loss={loss.name} compares distributions with a reference"
        portion = min(scoring.head_portion or POSITIONS_AT_ONCE, POSITIONS_AT_ONCE)
        models = [policy, reference.model]
        found = score_with(models, batch, _whole_distributions, replace(scoring, head_portion=portion))
        return Logps(found[0], found[1], batch.mask, kl=found[2], collision=found[3], mismatched=mismatched)
    collision: Tensor | None = None
    if loss.needs_collision:
        of_policy, collision = score_with([policy], batch, _with_collision, scoring)
    else:
        (of_policy,) = score_with([policy], batch, logps_of_logits, scoring)
    return Logps(
        of_policy, None if reference is None else reference(batch), batch.mask, collision=collision, mismatched=mismatched
    )


def _with_collision(logits: Sequence[Logits], tokens: Int[Tensor, " t"]) -> tuple[Float[Tensor, " t"], ...]:
    with torch.no_grad():
        collision = log_collision(logits[0])
    return (*logps_of_logits(logits, tokens), collision)


def log_collision(logits: Logits) -> Float[Tensor, " t"]:
    """log of the probability that two draws from each distribution agree: log sum_v p_v^2."""
    return torch.logsumexp(2 * logits, dim=-1) - 2 * torch.logsumexp(logits, dim=-1)


def _whole_distributions(logits: Sequence[Logits], tokens: Int[Tensor, " t"]) -> tuple[Float[Tensor, " t"], ...]:
    """Log-probabilities under policy and reference, KL(reference || policy), log collision of the policy."""
    of_policy, of_reference = (F.log_softmax(of, dim=-1) for of in logits)
    kl = reduce(of_reference.exp() * (of_reference - of_policy), "t v -> t", "sum")
    at_token = (rearrange(of.gather(-1, rearrange(tokens, "t -> t 1")), "t 1 -> t") for of in (of_policy, of_reference))
    return (*at_token, kl, log_collision(logits[0].detach()))
