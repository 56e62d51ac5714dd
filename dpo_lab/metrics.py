"""What is logged of a training step, from the same record that the loss saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps

SIDES = ("chosen", "rejected")


@torch.no_grad()
def preference_metrics(
    loss: PreferenceLoss, values: Float[Tensor, " b"], logps: Logps, batch: CandidateBatch
) -> dict[str, Float[Tensor, ""]]:
    """Means over the batch's prompts, still on its device.

    Rewards are those that the loss itself compares; an accuracy counts a tie as one half.
    """
    found = {"loss": values.mean()}
    rewards = loss.rewards(logps)
    for side, name in enumerate(SIDES[: batch.num_candidates]):
        found[f"rewards/{name}"] = rewards[side].mean()
        found[f"logps/{name}"] = logps.policy_logps()[side].mean()
        found[f"logps_mean/{name}"] = logps.policy_logps(Aggregate.mean)[side].mean()
        if logps.reference is not None:
            found[f"ref_logps/{name}"] = logps.reference_logps()[side].mean()
        found[f"length/{name}"] = logps.lengths[side].float().mean()
    if batch.num_candidates > 1:
        margins = rewards[0] - rewards[1]
        found["rewards/margins"] = margins.mean()
        found["rewards/accuracies"] = ((margins > 0).float() + 0.5 * (margins == 0).float()).mean()
    return {name: value.detach() for name, value in found.items()}


def weighted_mean(parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, float]:
    """The mean of each metric over parts of unequal size."""
    total = sum(weights)
    sums = {name: sum(part[name] * weight for part, weight in zip(parts, weights, strict=True)) for name in parts[0]}
    return {name: float(value) / total for name, value in sums.items()}
