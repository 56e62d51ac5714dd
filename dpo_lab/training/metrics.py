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
"""(total, count) of each metric, on the batch's device: the tallies of parts of a batch add up to the whole's."""


@dataclass
class Quantity:
    """A number for every comparison (the last axis is the prompt), and which of them its mean counts; None: all."""

    values: Float[Tensor, "*s b"]
    counted: Bool[Tensor, "*s b"] | None = None

    def tally(self) -> Float[Tensor, " 2"]:
        if self.counted is None:
            return torch.stack((self.values.sum(), self.values.new_full((), self.values.numel())))
        return torch.stack(((self.values * self.counted).sum(), self.counted.sum().to(self.values.dtype)))


@torch.no_grad()
def preference_metrics(
    loss: PreferenceLoss, values: Float[Tensor, " b"], logps: Logps, batch: CandidateBatch, state: State = NO_STATE
) -> Tally:
    """The tally of every metric over the batch's pairs; of unpaired feedback, over its completions.

    Rewards are those that the loss itself compares. An accuracy is over the pairs that have a label, and counts equal rewards
    as one half; `label_ties` is the share of pairs that have none, for P(chosen beats rejected) = 1/2.
    """
    quantities = _quantities(values, loss.rewards(logps, batch, state), logps, batch)
    return {name: quantity.tally() for name, quantity in quantities.items()} | _extra(loss, logps, batch, state)


@torch.no_grad()
def evaluation_metrics(
    loss: PreferenceLoss, values: Float[Tensor, " b"], logps: Logps, batch: CandidateBatch, state: State = NO_STATE
) -> dict[str, float]:
    """The means of `preference_metrics`, each mean over prompts with its standard error as NAME_se, prompts as clusters.

    What a loss logs of the batch as a whole has none.
    """
    quantities = _quantities(values, loss.rewards(logps, batch, state), logps, batch)
    metrics = means({name: each.tally() for name, each in quantities.items()} | _extra(loss, logps, batch, state))
    influences = {name: deviations(each.values, each.counted)[1] for name, each in quantities.items() if name in metrics}
    if "rewards/margins" in metrics and "rewards/margins" not in influences:
        influences["rewards/margins"] = influences["rewards/chosen"] - influences["rewards/rejected"]
    clusters = prompt_clusters(batch)[0]
    return with_errors(metrics, {name: standard_error(of_row, clusters) for name, of_row in influences.items()})


def _quantities(
    values: Float[Tensor, " b"], rewards: Float[Tensor, "k b"], logps: Logps, batch: CandidateBatch
) -> dict[str, Quantity]:
    of_candidates = {
        "rewards": rewards,
        "logps": logps.policy_logps(),
        "logps_mean": logps.policy_logps(mean_weights(logps.mask)),
        "length": logps.lengths.float(),
    }
    if logps.reference is not None:
        of_candidates["ref_logps"] = logps.reference_logps()
    quantities = {"loss": Quantity(values)}
    if batch.num_candidates == 1:
        chosen = torch.ones_like(batch.mask[:, :, 0]) if batch.desirable is None else batch.desirable
        for name, numbers in of_candidates.items():
            for side, counted in zip(SIDES, (chosen, ~chosen), strict=True):
                quantities[f"{name}/{side}"] = Quantity(numbers, counted)
        return quantities
    first, second = pairs_of(batch.num_candidates, logps.mask.device)
    for name, numbers in of_candidates.items():
        for side, candidates in zip(SIDES, (first, second), strict=True):
            quantities[f"{name}/{side}"] = Quantity(numbers[candidates])
    margins = rewards[first] - rewards[second]
    label = batch.preferences() - 0.5
    # Where the label says that the second is likelier to be the better one, ranking it higher is right.
    right = margins * label.sign()
    quantities["rewards/margins"] = Quantity(margins)
    quantities["rewards/accuracies"] = Quantity((right > 0).float() + 0.5 * (right == 0).float(), label != 0)
    quantities["label_ties"] = Quantity((label == 0).float())
    return quantities


def _extra(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch, state: State) -> Tally:
    extra = loss.extra_metrics(logps, batch, state)
    return {name: Quantity(mean.expand(len(batch))).tally() for name, mean in extra.items()}


def count_once(value: Tensor) -> Float[Tensor, " 2"]:
    """The tally of one number."""
    return torch.stack((value.float(), torch.ones_like(value, dtype=torch.float32)))


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """The tally of the whole, from those of its parts."""
    total: Tally = {}
    for tally in tallies:
        for name, pair in tally.items():
            total[name] = total[name] + pair if name in total else pair
    return total


def means(tally: Tally) -> dict[str, float]:
    """The mean of each metric, without those that counted nothing."""
    pairs = {name: pair.tolist() for name, pair in tally.items()}
    result = {name: total / count for name, (total, count) in pairs.items() if count}
    if {"rewards/chosen", "rewards/rejected"} <= result.keys():  # of unpaired feedback too, which has no margin of its own
        result.setdefault("rewards/margins", result["rewards/chosen"] - result["rewards/rejected"])
    return result


class Meter:
    """Means of the metrics, and the speed, since it was last read."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps: list[Tally] = []
        self.began = time.monotonic()

    def add(self, tally: Tally) -> None:
        """Count one optimiser step."""
        self.steps.append(tally)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside does not count as training time."""
        began = time.monotonic()
        yield
        self.began += time.monotonic() - began

    def read(self) -> dict[str, float]:
        """The means and the speed, which start anew."""
        seconds, count = time.monotonic() - self.began, len(self.steps)
        mean = means(add_tallies(self.steps))
        # In the order of the last step: the steps of a checkpoint come back in alphabetical order.
        names = dict.fromkeys(name for tally in reversed(self.steps) for name in tally)
        mean = {name: mean[name] for name in [*names, *mean] if name in mean}
        self.steps, self.began = [], time.monotonic()
        tokens = mean.pop("tokens") * count
        return {**mean, "pairs_per_s": count * self.batch_size / seconds, "tokens_per_s": tokens / seconds}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the steps since it was last read."""
        return {f"{i}.{name}": pair for i, tally in enumerate(self.steps) for name, pair in tally.items()}

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `state` returned."""
        steps: dict[int, Tally] = {}
        for key, pair in state.items():
            i, _, name = key.partition(".")
            steps.setdefault(int(i), {})[name] = pair.to(device)
        self.steps = [steps[i] for i in sorted(steps)]
