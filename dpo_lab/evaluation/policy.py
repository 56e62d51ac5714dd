"""Metrics of a policy's own samples: reward, win rate, KL from the reference, entropy, length, diversity."""

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

NUM_BIGRAMS = 1000
"""Bigrams among which `distinct_2` counts the different ones."""


@dataclass
class EvaluationSettings:
    """How many held-out prompts an evaluation uses, and the seed of its samples.

    `seed` draws the prompts and the reference's samples for them: runs that differ only in the run's seed share both. The
    policy's samples also depend on the run's seed; all evaluations of a run use the same random numbers. `vary=all` makes
    `seed` the run's, too.
    """

    num_prompts: int = 512
    """Held-out prompts of the evaluation at the end."""
    num_prompts_during: int = 256
    """Held-out prompts of the evaluations during training; their samples also make the held-out pairs."""
    best_of: list[int] | None = None
    """The n of the best-of-n rows; None: 2, 4 and 8."""
    num_shown: int = 4
    """Prompts whose samples are printed at the end; samples.jsonl holds all."""
    seed: int = 0
    """Seed of the held-out prompts and of the reference's samples."""

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


def win_rates(rewards: Float[Tensor, " b"], reference: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """For each prompt, the share of its k reference rewards that are lower than the policy's; a tie counts one half."""
    return ((rewards > reference).double() + 0.5 * (rewards == reference).double()).mean(dim=0)


def distinct_2(rows: Sequence[Sequence[int]]) -> float | None:
    """Share of distinct bigrams of tokens among NUM_BIGRAMS of them; None where there are fewer.

    Li et al. 2016, arXiv:1510.03055, whose share among all bigrams falls with their number. This is its mean over all subsets
    of NUM_BIGRAMS bigrams (rarefaction, Hurlbert 1971): a bigram that occurs c times among all M is in a subset with
    probability 1 - C(M - c, NUM_BIGRAMS) / C(M, NUM_BIGRAMS).
    """
    counts = Counter(pair for row in rows for pair in pairwise(row))
    total = counts.total()
    if total < NUM_BIGRAMS:
        return None

    def log_missing(count: int) -> float:  # log C(total - count, NUM_BIGRAMS) - log C(total, NUM_BIGRAMS)
        left = total - count
        if left < NUM_BIGRAMS:
            return -math.inf
        log_ways_left = math.lgamma(left + 1) - math.lgamma(left - NUM_BIGRAMS + 1)
        return log_ways_left - math.lgamma(total + 1) + math.lgamma(total - NUM_BIGRAMS + 1)

    by_count = Counter(counts.values())
    return sum(num * -math.expm1(log_missing(count)) for count, num in sorted(by_count.items())) / NUM_BIGRAMS


def sample_metrics(
    samples: CandidateBatch,
    logps: Logps,
    gold: Float[Tensor, " b"] | None,
    reference_gold: Float[Tensor, "k b"] | None,
    reference_scores: Float[Tensor, "k b"] | None,
) -> dict[str, float]:
    """Means over prompts, one policy sample each, with their standard errors (NAME_se).

    `samples.scores` are the proxy rewards of the policy's samples, `gold` the gold rewards; `reference_scores` and
    `reference_gold` those of k reference samples for the same prompts. All four are None where there is no reward.
    """
    clusters = prompt_clusters(samples)[0]
    kl, kl_error = sequence_kl(logps, clusters)
    lengths = samples.mask[0].sum(dim=1)
    # The mean of -log p over the policy's own samples estimates its entropy without a sum over the vocabulary.
    mean_surprisal = -logps.policy_logps()[0].double() / lengths
    each: dict[str, Tensor] = {}
    if samples.scores is not None and gold is not None and reference_gold is not None and reference_scores is not None:
        each = {
            "reward/policy": gold,
            "reward/reference": reference_gold,
            "proxy/policy": samples.scores[0],
            "proxy/reference": reference_scores,
            "positive/policy": (gold > 0).double(),
            "positive/reference": (reference_gold > 0).double(),
            "win_rate": win_rates(gold, reference_gold),
        }
    each["length/policy"] = lengths.double()
    means = {name: float(values.double().mean()) for name, values in each.items()}
    errors = {name: mean_error(values, clusters) for name, values in each.items()}
    means |= {"kl": kl, "entropy": deviations(mean_surprisal, lengths)[0]}
    errors |= {"kl": kl_error, "entropy": mean_error(mean_surprisal, clusters, lengths)}
    distinct = distinct_2([row[mask].tolist() for row, mask in zip(samples.completions[0], samples.mask[0], strict=True)])
    if distinct is not None:
        means["distinct_2"] = distinct
    order = ["kl", *each, "entropy", "distinct_2"]
    return with_errors({name: means[name] for name in order if name in means}, errors)
