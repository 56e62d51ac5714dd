"""What is logged of a training step, from the same record that the loss saw."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps, pairs_of

SIDES = ("chosen", "rejected")


@torch.no_grad()
def preference_metrics(
    loss: PreferenceLoss, values: Float[Tensor, " b"], logps: Logps, batch: CandidateBatch
) -> dict[str, Float[Tensor, ""]]:
    """Means over the batch's pairs, still on its device.

    Rewards are those that the loss itself compares; an accuracy counts a tie as one half.
    """
    found = {"loss": values.mean()}
    rewards, sums, means, lengths = loss.rewards(logps), logps.policy_logps(), logps.policy_logps(Aggregate.mean), logps.lengths
    alone = (torch.zeros(1, dtype=torch.long),)
    pairs: tuple[Tensor, ...] = pairs_of(batch.num_candidates) if batch.num_candidates > 1 else alone
    for name, of_pair in zip(SIDES, pairs, strict=False):
        found[f"rewards/{name}"] = rewards[of_pair].mean()
        found[f"logps/{name}"] = sums[of_pair].mean()
        found[f"logps_mean/{name}"] = means[of_pair].mean()
        if logps.reference is not None:
            found[f"ref_logps/{name}"] = logps.reference_logps()[of_pair].mean()
        found[f"length/{name}"] = lengths[of_pair].float().mean()
    if batch.num_candidates > 1:
        margins = rewards[pairs[0]] - rewards[pairs[1]]
        found["rewards/margins"] = margins.mean()
        found["rewards/accuracies"] = ((margins > 0).float() + 0.5 * (margins == 0).float()).mean()
    return {name: value.detach() for name, value in found.items()}


def weighted_mean(parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, float]:
    """The mean of each metric over parts of unequal size."""
    total = sum(weights)
    sums = {name: sum(part[name] * weight for part, weight in zip(parts, weights, strict=True)) for name in parts[0]}
    return {name: float(value) / total for name, value in sums.items()}


class Meter:
    """Means of the metrics, and the speed, since it was last read."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.parts: list[dict[str, Tensor]] = []
        self.began = time.monotonic()

    def add(self, metrics: dict[str, Tensor]) -> None:
        self.parts.append(metrics)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as training time."""
        began = time.monotonic()
        yield
        self.began += time.monotonic() - began

    def read(self) -> dict[str, float]:
        seconds, count = time.monotonic() - self.began, len(self.parts)
        mean = weighted_mean(self.parts, [1.0] * count)
        self.parts, self.began = [], time.monotonic()
        tokens = mean.pop("tokens") * count
        return {**mean, "pairs_per_s": count * self.batch_size / seconds, "tokens_per_s": tokens / seconds}
