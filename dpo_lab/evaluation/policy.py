"""How good a policy's own samples are, and how far they are from the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.records import CandidateBatch, Logps


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


def sequence_kl(logps: Logps) -> tuple[float, float]:
    """KL(policy || reference) over whole completions, in nats, and its standard error: the mean log-ratio of policy samples."""
    logratios = logps.logratios().flatten().double()
    return float(logratios.mean()), float(logratios.std() / math.sqrt(len(logratios)))


def win_rate(rewards: Float[Tensor, " b"], others: Float[Tensor, " b"]) -> float:
    """Share of prompts where the first reward is the higher; a tie counts one half."""
    return float(((rewards > others).float() + 0.5 * (rewards == others).float()).mean())


def distinct_2(rows: Sequence[Sequence[int]]) -> float:
    """Different pairs of neighbouring tokens over all such pairs, over all completions. Li et al. 2016, arXiv:1510.03055."""
    pairs = [pair for row in rows for pair in pairwise(row)]
    return len(set(pairs)) / max(len(pairs), 1)


def sample_metrics(
    samples: CandidateBatch, logps: Logps, gold: Float[Tensor, " b"] | None, others: Float[Tensor, " b"] | None
) -> dict[str, float]:
    """Metrics of one sample of the policy for each prompt (k = 1).

    `samples.scores` are the training scorer's rewards, `gold` the gold scorer's, `others` those of the reference's samples;
    all three are None where there is no reward.
    """
    kl, kl_se = sequence_kl(logps)
    tokens = float(samples.mask.sum())
    rows = [row[mask].tolist() for row, mask in zip(samples.completions[0], samples.mask[0], strict=True)]
    rewards = {}
    if samples.scores is not None and gold is not None and others is not None:
        rewards = {
            "reward/policy": float(gold.mean()),
            "reward/reference": float(others.mean()),
            "proxy/policy": float(samples.scores.mean()),
            "positive/policy": float((gold > 0).float().mean()),
            "positive/reference": float((others > 0).float().mean()),
            "win_rate": win_rate(gold, others),
        }
    return {
        "kl": kl,
        "kl_se": kl_se,
        **rewards,
        # The mean of -log p over the policy's own samples estimates its entropy without a sum over the vocabulary.
        "entropy": -float(logps.policy.sum()) / tokens,
        "distinct_2": distinct_2(rows),
        "length/policy": float(reduce(samples.mask.float(), "k b m -> k b", "sum").mean()),
    }
