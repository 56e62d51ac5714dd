"""The ideal share: what part of the best possible gain in reward at its KL a policy reaches, with a standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from dpo_lab.evaluation.errors import deviations, prompt_clusters, standard_error
from dpo_lab.evaluation.frontier import IdealFrontier
from dpo_lab.records import CandidateBatch

MIN_STANDARD_ERRORS = 2.0
"""Distance of KL from 0, in its standard errors, below which the share is not given: the ideal gain could be anything."""


@dataclass
class IdealShare:
    """The share, its standard error, and whether the frontier had to be extrapolated; or the reason why there is none."""

    share: float | None
    error: float | None = None
    extrapolated: bool = False
    reason: str = ""

    def metrics(self) -> dict[str, Any]:
        """As a run's summary holds it."""
        if self.share is None:
            return {"ideal_share": None, "ideal_share_reason": self.reason}
        error = {} if self.error is None else {"ideal_share_se": self.error}
        return {"ideal_share": self.share, **error, "ideal_extrapolated": self.extrapolated}


def ideal_share(
    policy: Float[Tensor, " b"],
    logratios: Float[Tensor, " b"],
    reference: Float[Tensor, "k b"],
    clusters: Int[Tensor, " b"],
    frontier: IdealFrontier,
) -> IdealShare:
    """(mean reward of the policy - that of the reference) / the frontier's gain at the policy's KL.

    `policy` and `logratios` are rewards and log-ratios of one policy sample for each of b prompts, `reference` the rewards of
    k reference samples for the same prompts, whose clusters are numbered as the frontier's prompts. The standard error is the
    delta method's: for each prompt, what it adds to the gain, to the KL and to the frontier, together. By the envelope theorem
    the frontier at a fixed KL moves as log E[exp(tilt * reward)] / tilt, and with KL as 1 / tilt. An extrapolation adds how far
    the frontier's own last slope would lead from a square root. What the frontier assumes adds nothing.
    """
    kl, kl_deviations = deviations(logratios)
    kl_error = standard_error(kl_deviations, clusters)
    if kl_error is None:
        return IdealShare(None, reason="there is one held-out prompt only, so KL has no standard error")
    if kl <= MIN_STANDARD_ERRORS * kl_error:  # both are 0 where the policy is the reference
        return IdealShare(None, reason=f"KL is within {MIN_STANDARD_ERRORS:.0f} standard errors of 0")
    end, point = frontier.points[-1], frontier.at(kl)
    if end.kl <= 0:
        equal = bool((frontier.centred == 0).all())
        few = f"{len(frontier.rewards):,} samples are too few for the ideal frontier"
        return IdealShare(None, reason="all samples of a prompt have the same reward" if equal else few)
    extrapolated = kl > end.kl
    gain, gain_deviations = deviations(policy.double() - reference.double().mean(dim=0))
    share = gain / point.reward
    slope = point.reward / (2 * kl) if extrapolated else 1 / point.tilt
    grown = math.sqrt(kl / end.kl) if extrapolated else 1.0
    frontier_deviations = grown / point.tilt * frontier.without_each(point.tilt)
    adds = torch.cat(
        ((gain_deviations - share * slope * kl_deviations) / point.reward, -share / point.reward * frontier_deviations)
    )
    error = standard_error(adds, torch.cat((clusters, frontier.prompts.unique())), num_clusters=len(clusters.unique()))
    if extrapolated and error is not None:
        bend = end.kl / (end.tilt * end.reward) - 0.5  # of log gain in log KL at the end, beside that of a square root
        error = math.hypot(error, share * bend * math.log(kl / end.kl))
    return IdealShare(share, error, extrapolated)


def frontier_of(reference: CandidateBatch, *more: CandidateBatch) -> tuple[IdealFrontier, Int[Tensor, " b"]]:
    """The ideal frontier of the reference, from scored samples at temperature 1, and the prompt clusters of the first batch."""
    batches = (reference, *more)
    numbers = prompt_clusters(*batches)
    rewards = [batch.scores.flatten() for batch in batches if batch.scores is not None]
    assert len(rewards) == len(batches), "the samples have not been scored"
    prompts = [repeat(clusters, "b -> (k b)", k=batch.num_candidates) for clusters, batch in zip(numbers, batches, strict=True)]
    return IdealFrontier(torch.cat(rewards), torch.cat(prompts)), numbers[0]
