"""The trainer's settings: how long, in what batches, and what is evaluated, saved and guarded on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import Enum

from dpo_lab.training.guards import GuardSettings

DEFAULT_BATCH = 64

IN_A_BASE_FIT = frozenset(
    {
        *("batch_size", "micro_batch_size", "micro_batch_tokens", "length_window", "max_steps", "max_pairs"),
        *("clip", "dropout", "log_every", "preflight", "guards.non_finite"),
    }
)
"""The settings that have a meaning while a base policy is fitted."""


class Kept(Enum):
    """Which step's weights are the result of a training."""

    last = "last"
    best = "best"


@dataclass
class TrainerSettings:
    """The settings of a training. An interval of None means never."""

    batch_size: int = DEFAULT_BATCH
    """Prompts in one optimiser step."""
    micro_batch_size: int | None = None
    """Prompts in one forward and backward pass, and in one of an evaluation. None: the whole batch, and in an evaluation 8192
    tokens. Changes memory and speed, not the result.
    """
    micro_batch_tokens: int | None = None
    """Instead: tokens in one pass, prompts kept whole with all their completions, similar lengths
    together. A single prompt that has more runs alone.
    """
    length_window: int | None = None
    """Sort the rows of this many consecutive batches into them by length, which saves padding; the batches come in random
    order.
    """
    max_steps: int | None = 100
    """Optimiser steps."""
    max_pairs: int | None = None
    """Training prompts to see; with two candidates a prompt is a pair."""
    max_minutes: float | None = None
    """Training time in minutes. Of max_steps, max_pairs and max_minutes the first limit reached ends training."""
    clip: float | None = 1.0
    """Largest norm of the gradient."""
    dropout: bool = False
    """Keep dropout on in the policy's scored pass. Its loss then no longer starts at the loss's constant."""
    log_every: int = 10
    """Steps from one line of training metrics to the next."""
    eval_every: int | None = None
    """Steps from one evaluation on held-out prompts to the next; there is one before the first step and one at the end
    besides.
    """
    best_metric: str = "loss"
    """The evaluation's metric that chooses the best checkpoint: lower is better for losses and kl, higher for all others."""
    patience: int | None = None
    """Stop early after this many evaluations in a row without a better one."""
    policy: Kept = Kept.last
    """Which weights are evaluated at the end and become policy/: those of the last step, or of the best evaluation."""
    checkpoint_every: int | None = None
    """Steps from one checkpoint to the next, beside those after every evaluation and at the end."""
    keep_last: int = 2
    """Newest checkpoints that are kept, beside the best: if the newest is damaged, a run resumes from the one before it."""
    keep_every: int | None = None
    """Keep the checkpoint of every N-th step for good."""

    preflight: bool | None = None
    """Try the longest batch first, to see whether it fits into memory. Changes no result. None: on an accelerator."""
    guards: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self) -> None:
        sizes = ("batch_size", "micro_batch_size", "micro_batch_tokens", "length_window", "max_steps", "max_pairs", "keep_last")
        intervals = ("log_every", "eval_every", "patience", "checkpoint_every", "keep_every")
        for name in sizes + intervals:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"trainer.{name} must be at least 1, got {value}")
        if self.micro_batch_size is not None and self.micro_batch_tokens is not None:
            raise ValueError(
                "trainer.micro_batch_size and trainer.micro_batch_tokens say the same in two ways: set one of them"
            )
        if self.max_steps is None and self.max_pairs is None:
            raise ValueError("trainer.max_steps or trainer.max_pairs must be set: the schedule needs to know the end")
        if self.patience is not None and self.eval_every is None:
            raise ValueError("trainer.patience counts evaluations on the way, and there are none: set trainer.eval_every")
        for name, limit in (("max_minutes", self.max_minutes), ("clip", self.clip)):
            if limit is not None and not limit > 0:
                raise ValueError(f"trainer.{name} must be > 0, got {limit}")

    def check_base_fit(self) -> None:
        """Raises ValueError for a setting that has no meaning while a base policy is fitted."""
        usual = type(self)()
        values = {f.name: (getattr(self, f.name), getattr(usual, f.name)) for f in fields(self) if f.name != "guards"}
        guards = {f.name: (getattr(self.guards, f.name), getattr(usual.guards, f.name)) for f in fields(self.guards)}
        values |= {f"guards.{name}": pair for name, pair in guards.items()}
        if self.max_minutes is not None:
            raise ValueError(
                "base.trainer.max_minutes: how far a fit comes in a time depends on the machine, and a base policy is kept "
                "under its settings, which must say all of it: use base.trainer.max_steps or base.trainer.max_pairs"
            )
        for name, (value, default) in values.items():
            if value != default and name not in IN_A_BASE_FIT:
                raise ValueError(
                    f"base.trainer.{name} means nothing there: while a base policy is fitted there are no evaluations, no "
                    "checkpoints, no pairs and no reference; leave it out"
                )

    def check_rows(self, count: int, what: str, setting: str = "trainer") -> str:
        """A warning if a batch holds some of the `count` rows more than once, otherwise "".

        Raises ValueError if the batch size was also raised over its default: that many rows were meant to be there.
        """
        if self.batch_size <= count:
            return ""
        sizes = f"{setting}.batch_size={self.batch_size}, but there are only {count:,} {what} to train on"
        if self.batch_size > DEFAULT_BATCH:
            raise ValueError(f"{sizes}: set {setting}.batch_size={count} or less")
        return f"{sizes}: every step sees some of them more than once"

    @property
    def micro_batch_limits(self) -> tuple[int | None, int | None]:
        """The most prompts, and the most tokens, in one pass; None: no bound of that kind."""
        return self.micro_batch_size, self.micro_batch_tokens

    @property
    def num_steps(self) -> int:
        """Steps that the schedule spans."""
        limits = [self.max_steps, None if self.max_pairs is None else math.ceil(self.max_pairs / self.batch_size)]
        return min(limit for limit in limits if limit is not None)
