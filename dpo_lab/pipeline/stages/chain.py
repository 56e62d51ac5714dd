"""The stages of one study, in the order in which they need each other."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import nn

from dpo_lab.artifacts.store import Key
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.evaluation.evaluator import Evaluator
from dpo_lab.models.policies import Policy
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.stages.base import fitted_base, loaded_base
from dpo_lab.pipeline.stages.given_pairs import given_pairs
from dpo_lab.pipeline.stages.reward import Scorers, scorers_of
from dpo_lab.pipeline.stages.samples import samples_of
from dpo_lab.pipeline.stages.text import Text
from dpo_lab.pipeline.stages.tokenizer import fitted_tokenizer
from dpo_lab.preferences import GivenSource, SampledSource
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import Layout
from dpo_lab.scoring.logps import Scoring
from dpo_lab.seeding import number


class Stages:
    """What the stages of one study give, each computed when first asked for."""

    def __init__(self, context: Context) -> None:
        self.text, self.study, self.console = Text(context), context.study, context.console

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own, or else one that is fitted to the text."""
        return self._fitted_tokenizer[0] if self.study.model.weights() is None else self.base[0].tokenizer

    @cached_property
    def _fitted_tokenizer(self) -> tuple[Tokenizer, Key]:
        return fitted_tokenizer(self.text)

    @cached_property
    def base(self) -> tuple[Policy, str]:
        """The policy that preference training starts from, and a key that stands for its weights."""
        return (
            loaded_base(self.text)
            if self.study.model.weights() is not None
            else fitted_base(self.text, *self._fitted_tokenizer)
        )

    @cached_property
    def scorers(self) -> Scorers:
        """The training reward and the gold reward."""
        return scorers_of(self.text)

    def samples(self, spec: SampledSource) -> CandidateBatch:
        """Labelled samples of the base policy for training prompts, k of each."""
        drawn = {"num_prompts": spec.num_prompts, "k": spec.samples_per_prompt, "temperature": spec.temperature}
        drawn |= {"max_tokens": spec.max_tokens, "seed": spec.seed}
        return samples_of(self.text, *self.base, self.scorers, "candidates", "train", drawn)

    @cached_property
    def reference_samples(self) -> CandidateBatch:
        """Samples of the base policy for held-out prompts: what the policy is compared with, and best-of-n chooses from."""
        several = max(self.study.evaluation.sizes) if self.study.reward.has_scores else 1  # without a reward no n is best
        drawn = {"num_prompts": self.study.evaluation.num_prompts, "k": several, "temperature": 1.0}
        drawn |= {"max_tokens": self.study.candidates.max_tokens, "seed": self.study.evaluation.seed}
        return samples_of(self.text, *self.base, self.scorers, "reference_samples", "eval", drawn)

    def pairs(self) -> tuple[CandidateBatch, CandidateBatch | None, CandidateBatch | None]:
        """Pairs to train on, held-out pairs (None if there are none), and the labelled samples they come from, if any."""
        spec = self.study.candidates
        if isinstance(spec, SampledSource):
            samples = self.samples(spec)
            if samples.scores is None:
                raise ValueError(f"candidates={spec.name} needs a reward to label the samples: choose one with reward=...")
            train, counts = spec.pairs(samples)
            first = torch.arange(min(self.study.evaluation.num_prompts_during, len(self.reference_samples)))
            held_out, _ = spec.pairs(self.reference_samples.select(first), like=samples)
            if not len(train):
                raise ValueError("every prompt's samples have equal rewards, so no pair can be made; check the reward")
            self.console.note("  " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
            return train, held_out if len(held_out) else None, samples
        assert isinstance(spec, GivenSource), spec
        return *given_pairs(self.text, spec, self.tokenizer), None

    def evaluator(self, reference: nn.Module) -> Evaluator:
        """The evaluator of policies that start from `reference`, on the held-out prompts."""
        study = self.study
        return Evaluator(
            tokenizer=self.base[0].tokenizer,
            reference=reference,
            reference_samples=self.reference_samples,
            proxy=self.scorers.proxy,
            gold=self.scorers.gold,
            max_tokens=study.candidates.max_tokens,
            seed=number(study.evaluation.seed, "evaluation of a run", study.seed),
            scoring=Scoring((Layout.rows,), study.compute.head_portion, *study.trainer.micro_batch_limits),  # nothing to share
        )
