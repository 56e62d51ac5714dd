"""Candidates sampled from the base policy and labelled by a reward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from dpo_lab.preferences.base import CANDIDATES, SampledSource
from dpo_lab.preferences.labelling import Labels, label_pairs, label_rankings, label_singles
from dpo_lab.records import CandidateBatch
from dpo_lab.seeding import Streams, streams_of_prompts


class Pairing(Enum):
    """Which samples of a prompt are compared.

    all: each with each, scored together in one pass (the most signal for the compute). extremes (best with worst, second best
    with second worst, ...), best_worst and random make pairs, a sample in one at most. unpaired: none; each is desirable or
    not.
    """

    all = "all"
    extremes = "extremes"
    best_worst = "best_worst"
    random = "random"
    unpaired = "unpaired"


@CANDIDATES.register
@dataclass
class SampledCandidates(SampledSource):
    """Several samples of the base policy for each training prompt, compared by the proxy reward.

    With soft labels DPO has an exact optimum, the reference tilted by exp(reward / (beta * label_temperature)): a point on
    the frontier of reward against KL. With hard labels it has none, and how far the policy goes depends on when training stops.
    """

    name: str = "sampled"
    pairing: Pairing = Pairing.all
    """Which samples of a prompt are compared: each with each; best with worst, second best with second worst, and so on; the
    best with the worst; random pairs; or none, each being desirable or not.
    """
    labels: Labels = Labels.hard
    """What a label is: the higher reward wins (hard), P(a beats b) = sigmoid of the difference of rewards (soft), or a draw
    from that P (bradley_terry).
    """
    label_temperature: float = 1.0
    """Divides the difference of rewards in soft and bradley_terry labels."""
    desirable_above: float | None = None
    """With pairing=unpaired: the reward above which a sample is desirable. None: the mean reward of all training samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.label_temperature > 0:
            raise ValueError(f"candidates.label_temperature must be > 0, got {self.label_temperature}")
        if self.pairing is Pairing.unpaired and self.labels is Labels.soft:
            raise ValueError(
                "candidates.labels=soft cannot be used with candidates.pairing=unpaired: a completion of its own is desirable "
                "or it is not; choose hard or bradley_terry"
            )
        if self.desirable_above is not None and self.pairing is not Pairing.unpaired:
            raise ValueError(
                f"candidates.desirable_above is for candidates.pairing=unpaired, got it with pairing={self.pairing.value}"
            )
        if self.desirable_above is not None and not math.isfinite(self.desirable_above):
            raise ValueError(f"candidates.desirable_above must be finite, got {self.desirable_above}")

    @property
    def num_candidates(self) -> int | None:
        return {Pairing.all: self.samples_per_prompt, Pairing.unpaired: 1}.get(self.pairing, 2)

    @property
    def most_rows(self) -> int | None:
        k = self.samples_per_prompt
        rows_per_prompt = {Pairing.all: 1, Pairing.best_worst: 1, Pairing.unpaired: k}.get(self.pairing, k // 2)
        return self.num_prompts * rows_per_prompt

    def pairs(self, samples: CandidateBatch, *, like: CandidateBatch | None = None) -> tuple[CandidateBatch, dict[str, int]]:
        """Rankings, pairs, or single completions (see Pairing). Each prompt's random numbers are its own.

        Where `desirable_above` is the mean reward, that of the training samples serves for held-out ones, too.
        """
        side = "train" if like is None else "held out"
        label_streams, partner_streams = (
            streams_of_prompts(self.seed, purpose, samples.prompt, samples.prompt_mask, side)
            for purpose in ("label", "partner")
        )
        if self.pairing is Pairing.all:
            return label_rankings(samples, self.labels, self.label_temperature, label_streams)
        if self.pairing is Pairing.unpaired:
            threshold = (
                _mean_reward(samples if like is None else like) if self.desirable_above is None else self.desirable_above
            )
            temperature = self.label_temperature if self.labels is Labels.bradley_terry else None
            return label_singles(samples, threshold, temperature, label_streams)
        first, second = self._partners(samples, partner_streams)
        return label_pairs(samples, first, second, self.labels, self.label_temperature, label_streams)

    def _partners(self, samples: CandidateBatch, streams: Streams) -> tuple[Int[Tensor, "q b"], Int[Tensor, "q b"]]:
        """The numbers of the two samples of each pair, q pairs a prompt."""
        assert samples.scores is not None, "the samples have not been scored"
        half = samples.num_candidates // 2
        if self.pairing is Pairing.random:
            order = rearrange(streams.uniform(samples.num_candidates), "b k -> k b").argsort(dim=0, stable=True)
            return order[:half], order[half : 2 * half]
        order = samples.scores.argsort(dim=0, descending=True, stable=True)
        if self.pairing is Pairing.best_worst:
            return order[:1], order[-1:]
        return order[:half], order.flip(0)[:half]


def _mean_reward(samples: CandidateBatch) -> float:
    assert samples.scores is not None, "the samples have not been scored"
    return float(samples.scores.double().mean())  # the double mean of equal float32 rewards is exact: none is above it
