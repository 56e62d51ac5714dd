"""The log-probabilities that a loss reads: of policy and reference, for one batch."""

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
"""Positions whose whole distributions under policy and reference exist at a time."""


def compute_logps(
    policy: nn.Module,
    batch: CandidateBatch,
    loss: PreferenceLoss,
    reference: Reference | None,
    scoring: Scoring | None = None,
) -> Logps:
    """Log-probabilities under policy and reference, with whatever else of the next-token distributions the loss reads.

    Each model is run once, and distributions over the vocabulary do not outlive the positions they belong to.
    """
    scoring = scoring or Scoring()
    mismatched = None
    if loss.needs_mismatched and batch.mismatched is not None:
        with torch.no_grad():
            other = batch.mismatched
            mismatched = Logps(score(policy, other, scoring), None if reference is None else reference(other), other.mask)
    if loss.needs_kl:
        assert reference is not None, f"loss={loss.name} compares distributions with a reference"
        at_once = min(scoring.head_portion or POSITIONS_AT_ONCE, POSITIONS_AT_ONCE)
        models = [policy, reference.model]
        logps, ref_logps, kl, collision = score_with(models, batch, _both_and_kl, replace(scoring, head_portion=at_once))
        return Logps(logps, ref_logps, batch.mask, kl=kl, collision=collision, mismatched=mismatched)
    compute = _with_collision if loss.needs_collision else logps_of_logits
    logps, *rest = score_with([policy], batch, compute, scoring)
    ref = None if reference is None else reference(batch)
    return Logps(logps, ref, batch.mask, collision=rest[0] if rest else None, mismatched=mismatched)


def _with_collision(logits: Sequence[Logits], tokens: Int[Tensor, " t"]) -> tuple[Float[Tensor, " t"], ...]:
    with torch.no_grad():
        collision = log_collision(logits[0])
    return (*logps_of_logits(logits, tokens), collision)


def log_collision(logits: Logits) -> Float[Tensor, " t"]:
    """log of the probability that two draws from each distribution agree: log sum_v p_v^2."""
    return torch.logsumexp(2 * logits, dim=-1) - 2 * torch.logsumexp(logits, dim=-1)


def _both_and_kl(logits: Sequence[Logits], tokens: Int[Tensor, " t"]) -> tuple[Float[Tensor, " t"], ...]:
    """Log-probabilities under policy and reference, KL(reference || policy), log collision of the policy."""
    policy, reference = (F.log_softmax(of_model, dim=-1) for of_model in logits)
    kl = reduce(reference.exp() * (reference - policy), "t v -> t", "sum")
    at_token = (rearrange(all_.gather(-1, rearrange(tokens, "t -> t 1")), "t 1 -> t") for all_ in (policy, reference))
    return (*at_token, kl, log_collision(logits[0].detach()))
