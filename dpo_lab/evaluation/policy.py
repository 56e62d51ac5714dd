"""How good a policy's own samples are, and how far they are from the reference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor

from dpo_lab.evaluation.errors import deviations, mean_error, prompt_clusters, with_errors
from dpo_lab.records import CandidateBatch, Logps

DISTINCT_OF = 1000
"""Pairs of neighbouring tokens among which `distinct_2` counts the different ones."""


@dataclass
class EvaluationSettings:
    """On how many held-out prompts a policy is judged.

    `seed` draws the prompts and the reference's samples for them: runs that differ in the run's seed alone share both. The
    policy's samples depend on the run's seed besides, so that their chance is another in every run; at all evaluations of a run
    it is the same. `vary=all` makes `seed` the run's, too.
    """

    num_prompts: int = 512
    """At the end."""
    num_prompts_during: int = 256
    """At the evaluations on the way; their samples also make the held-out pairs."""
    best_of: list[int] | None = None
    """Sizes n of the best-of-n rows; None: 2, 4 and 8."""
    num_shown: int = 4
    """Prompts whose samples are printed at the end; samples.jsonl holds all."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("num_prompts", "num_prompts_during"):
            if getattr(self, field) < 2:
                raise ValueError(f"evaluation.{field} must be at least 2, got {getattr(self, field)}")
        if self.num_shown < 0:
            raise ValueError(f"evaluation.num_shown must be >= 0, got {self.num_shown}")
        if self.best_of is not None and (not self.best_of or min(self.best_of) < 2):
            raise ValueError(f"evaluation.best_of must hold numbers of at least 2, got {self.best_of}")

    @property
    def sizes(self) -> list[int]:
        return [2, 4, 8] if self.best_of is None else sorted(self.best_of)


def sequence_kl(logps: Logps, clusters: Int[Tensor, " b"]) -> tuple[float, float | None]:
    """KL(policy || reference) over whole completions, in nats, and its standard error: the mean log-ratio of policy samples."""
    logratios = logps.logratios().double()
    return float(logratios.mean()), mean_error(logratios, clusters)


def wins(rewards: Float[Tensor, " b"], others: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """For each prompt the share of its k other samples whose reward is the lower; a tie counts one half."""
    return ((rewards > others).double() + 0.5 * (rewards == others).double()).mean(dim=0)


def distinct_2(rows: Sequence[Sequence[int]]) -> float | None:
    """Different pairs of neighbouring tokens among so many as DISTINCT_OF of them, as a share; None where there are fewer.

    Li et al. 2016, arXiv:1510.03055, whose share of all pairs falls with their number. This is its mean over all subsets of
    DISTINCT_OF pairs (rarefaction, Hurlbert 1971): a pair that occurs c times among all M is in a subset with probability
    1 - C(M - c, DISTINCT_OF) / C(M, DISTINCT_OF).
    """
    counts = Counter(pair for row in rows for pair in pairwise(row))
    total = counts.total()
    if total < DISTINCT_OF:
        return None

    def log_missing(count: int) -> float:  # log C(total - count, DISTINCT_OF) - log C(total, DISTINCT_OF)
        left = total - count
        if left < DISTINCT_OF:
            return -math.inf
        of_left = math.lgamma(left + 1) - math.lgamma(left - DISTINCT_OF + 1)
        return of_left - math.lgamma(total + 1) + math.lgamma(total - DISTINCT_OF + 1)

    alike = Counter(counts.values())
    return sum(num * -math.expm1(log_missing(count)) for count, num in sorted(alike.items())) / DISTINCT_OF


def sample_metrics(
    samples: CandidateBatch,
    logps: Logps,
    gold: Float[Tensor, " b"] | None,
    reference_gold: Float[Tensor, "k b"] | None,
    reference_scores: Float[Tensor, "k b"] | None,
) -> dict[str, float]:
    """Metrics of one sample of the policy for each prompt, each mean over prompts with its standard error (NAME_se).

    `samples.scores` are the training scorer's rewards, `gold` the gold scorer's; `reference_scores` and `reference_gold` are
    theirs of k samples of the reference for the same prompts. All four are None where there is no reward.
    """
    clusters = prompt_clusters(samples)[0]
    kl, kl_error = sequence_kl(logps, clusters)
    lengths = samples.mask[0].sum(dim=1)
    # The mean of -log p over the policy's own samples estimates its entropy without a sum over the vocabulary.
    surprise = -logps.policy_logps()[0].double() / lengths
    each: dict[str, Tensor] = {}
    if samples.scores is not None and gold is not None and reference_gold is not None and reference_scores is not None:
        each = {
            "reward/policy": gold,
            "reward/reference": reference_gold,
            "proxy/policy": samples.scores[0],
            "proxy/reference": reference_scores,
            "positive/policy": (gold > 0).double(),
            "positive/reference": (reference_gold > 0).double(),
            "win_rate": wins(gold, reference_gold),
        }
    each["length/policy"] = lengths.double()
    means = {name: float(values.double().mean()) for name, values in each.items()}
    errors = {name: mean_error(values, clusters) for name, values in each.items()}
    means |= {"kl": kl, "entropy": deviations(surprise, lengths)[0]}
    errors |= {"kl": kl_error, "entropy": mean_error(surprise, clusters, lengths)}
    distinct = distinct_2([row[mask].tolist() for row, mask in zip(samples.completions[0], samples.mask[0], strict=True)])
    if distinct is not None:
        means["distinct_2"] = distinct
    order = ["kl", *each, "entropy", "distinct_2"]
    return with_errors({name: means[name] for name in order if name in means}, errors)
