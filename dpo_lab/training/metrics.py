"""What is logged of a training step, from the same record that the loss saw."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dpo_lab.evaluation.errors import deviations, prompt_clusters, standard_error, with_errors
from dpo_lab.losses.aggregates import mean_weights
from dpo_lab.losses.base import NO_STATE, PreferenceLoss, State
from dpo_lab.records import CandidateBatch, Logps, pairs_of

SIDES = ("chosen", "rejected")

Tally = dict[str, Tensor]
"""Of each metric (total, count), on the batch's device: tallies of the parts of a batch add up to the whole's."""


@dataclass
class Items:
    """A quantity of every comparison (the last axis is the prompt), and which of them count in its mean; None: all."""

    values: Float[Tensor, "*s b"]
    which: Bool[Tensor, "*s b"] | None = None

    def tally(self) -> Float[Tensor, " 2"]:
        if self.which is None:
            return torch.stack((self.values.sum(), self.values.new_full((), self.values.numel())))
        return torch.stack(((self.values * self.which).sum(), self.which.sum().to(self.values.dtype)))


@torch.no_grad()
def preference_metrics(
    loss: PreferenceLoss, values: Float[Tensor, " b"], logps: Logps, batch: CandidateBatch, state: State = NO_STATE
) -> dict[str, Float[Tensor, " 2"]]:
    """Total and count of every metric over the batch's pairs; of unpaired feedback, over its completions.

    Rewards are those that the loss itself compares. An accuracy is over the pairs that have a label, and counts equal rewards
    as one half; `label_ties` is the share of pairs that have none, for P(chosen beats rejected) = 1/2.
    """
    items = _items(values, loss.rewards(logps, batch, state), logps, batch)
    return {name: item.tally() for name, item in items.items()} | _extra(loss, logps, batch, state)


@torch.no_grad()
def evaluation_metrics(
    loss: PreferenceLoss, values: Float[Tensor, " b"], logps: Logps, batch: CandidateBatch, state: State = NO_STATE
) -> dict[str, float]:
    """The means of `preference_metrics`, each mean over prompts with its standard error as NAME_se, prompts as clusters.

    What a loss logs of the batch as a whole has none.
    """
    items = _items(values, loss.rewards(logps, batch, state), logps, batch)
    found = means({name: item.tally() for name, item in items.items()} | _extra(loss, logps, batch, state))
    adds = {name: deviations(item.values, item.which)[1] for name, item in items.items() if name in found}
    if "rewards/margins" in found and "rewards/margins" not in adds:
        adds["rewards/margins"] = adds["rewards/chosen"] - adds["rewards/rejected"]
    clusters = prompt_clusters(batch)[0]
    return with_errors(found, {name: standard_error(of, clusters) for name, of in adds.items()})


def _items(values: Float[Tensor, " b"], rewards: Float[Tensor, "k b"], logps: Logps, batch: CandidateBatch) -> dict[str, Items]:
    quantities = {
        "rewards": rewards,
        "logps": logps.policy_logps(),
        "logps_mean": logps.policy_logps(mean_weights(logps.mask)),
        "length": logps.lengths.float(),
    }
    if logps.reference is not None:
        quantities["ref_logps"] = logps.reference_logps()
    found = {"loss": Items(values)}
    if batch.num_candidates == 1:
        chosen = torch.ones_like(batch.mask[:, :, 0]) if batch.desirable is None else batch.desirable
        for name, of in quantities.items():
            for side, which in zip(SIDES, (chosen, ~chosen), strict=True):
                found[f"{name}/{side}"] = Items(of, which)
        return found
    first, second = pairs_of(batch.num_candidates, logps.mask.device)
    for name, of in quantities.items():
        for side, candidates in zip(SIDES, (first, second), strict=True):
            found[f"{name}/{side}"] = Items(of[candidates])
    margins = rewards[first] - rewards[second]
    label = batch.preferences() - 0.5
    # Where the label says that the second is likelier to be the better one, ranking it higher is right.
    right = margins * label.sign()
    found["rewards/margins"] = Items(margins)
    found["rewards/accuracies"] = Items((right > 0).float() + 0.5 * (right == 0).float(), label != 0)
    found["label_ties"] = Items((label == 0).float())
    return found


def _extra(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch, state: State) -> Tally:
    extra = loss.extra_metrics(logps, batch, state)
    return {name: Items(mean.expand(len(batch))).tally() for name, mean in extra.items()}


def once(value: Tensor) -> Float[Tensor, " 2"]:
    """The tally of one number."""
    return torch.stack((value.float(), torch.ones_like(value, dtype=torch.float32)))


def added(tallies: Iterable[Mapping[str, Tensor]]) -> Tally:
    """The tally of the whole, from those of its parts."""
    total: Tally = {}
    for tally in tallies:
        for name, pair in tally.items():
            total[name] = total[name] + pair if name in total else pair
    return total


def means(tally: Mapping[str, Tensor]) -> dict[str, float]:
    """Of each metric, without those that nothing was counted in."""
    pairs = {name: pair.tolist() for name, pair in tally.items()}
    found = {name: total / count for name, (total, count) in pairs.items() if count}
    if {"rewards/chosen", "rewards/rejected"} <= found.keys():  # of unpaired feedback too, which has no margin of its own
        found.setdefault("rewards/margins", found["rewards/chosen"] - found["rewards/rejected"])
    return found


class Meter:
    """Means of the metrics, and the speed, since it was last read."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.parts: list[Tally] = []
        self.began = time.monotonic()

    def add(self, tally: Tally) -> None:
        """Of one optimiser step."""
        self.parts.append(tally)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as training time."""
        began = time.monotonic()
        yield
        self.began += time.monotonic() - began

    def read(self) -> dict[str, float]:
        seconds, count = time.monotonic() - self.began, len(self.parts)
        mean = means(added(self.parts))
        named = dict.fromkeys(name for part in reversed(self.parts) for name in part)  # parts put back come in another order
        mean = {name: mean[name] for name in [*named, *mean] if name in mean}
        self.parts, self.began = [], time.monotonic()
        tokens = mean.pop("tokens") * count
        return {**mean, "pairs_per_s": count * self.batch_size / seconds, "tokens_per_s": tokens / seconds}
