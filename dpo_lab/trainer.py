"""Gradient descent on a preference loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpo_lab.best import Best
from dpo_lab.compute import Compute
from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.metrics import Meter, Tally, once
from dpo_lab.objective import Objective
from dpo_lab.optim import ScheduleSpec
from dpo_lab.outcome import Outcome, Status, Unread
from dpo_lab.portions import longest_rows
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.references.base import Reference
from dpo_lab.resuming import (
    below,
    numbers,
    optimizer_state,
    prefixed,
    random_state,
    set_optimizer_state,
    set_random_state,
    tallies,
    tally_state,
)
from dpo_lab.sampler import batch_rows
from dpo_lab.scoring import Scoring
from dpo_lab.trainer_settings import TrainerSettings


@dataclass
class Hooks:
    """What the trainer reports to. Each may be left out."""

    log: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
    """Means since the last report, every `log_every` steps and at the end."""
    evaluate: Callable[[int], Mapping[str, float]] | None = None
    """Called before the first step, every `eval_every` steps and after the last."""
    checkpoint: Callable[[str, int, Mapping[str, float]], None] = lambda kind, step, metrics: None
    """Asked to save a "best" or the "last" state: at evaluations, at checkpoints that are due, and in the end."""
    stop: Callable[[], str] = lambda: ""
    """Looked at after every step: why training has to stop there, once it is saved; "" if it has not."""
    warn: Callable[[str], None] = lambda text: None


@dataclass
class Trainer:
    """Trains `policy` in place. Two runs with the same arguments take the same steps."""

    policy: nn.Module
    loss: PreferenceLoss
    reference: Reference | None
    """None for losses that need none."""
    data: CandidateBatch
    optimizers: list[Optimizer]
    schedule: ScheduleSpec
    settings: TrainerSettings
    compute: Compute
    seed: int
    hooks: Hooks
    rows: Callable[[int], Tensor] | None = None
    """Rows of the data in each step's batch; None: shuffled epochs."""
    starts_at_reference: bool = True
    """The policy begins as the reference, so the first loss must be the loss's constant."""
    scoring: Scoring = field(default_factory=Scoring)
    resume: Mapping[str, Tensor] | None = None
    """The `state` of an interrupted run to go on from. The policy already has its weights."""

    step: int = field(default=0, init=False)
    """Steps taken."""

    def __post_init__(self) -> None:
        self.best = Best(self.settings.best_metric, self.settings.patience)
        self.meter, self.began = Meter(self.settings.batch_size), time.monotonic()

    def fit(self) -> Outcome:
        settings, best, meter = self.settings, self.best, self.meter
        torch.manual_seed(self.seed)
        self.policy.train(settings.dropout)
        self.loss.state = self.loss.initial_state()
        full_lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        if self.resume is None:
            self._evaluate(0, best)
        else:
            self._restore(self.resume)
        meter.began = time.monotonic()
        reason, unread = "", Unread()
        for step in range(self.step + 1, settings.num_steps + 1) if not best.exhausted else ():
            batch = replace(self.data.select(self._rows(step - 1)), step=step)
            factor = self._set_learning_rates(step - 1, full_lrs)
            tally = self._gradients(batch, first=step == 1)
            unread.add(step, batch.ids, tally)
            if not self.compute.reading_waits and (diverged := unread.diverged()):
                return diverged
            for optimizer in self.optimizers:
                optimizer.step()
            if self.reference is not None:
                self.reference.follow(self.policy, step)
            self.step = step
            meter.add(tally)
            if settings.max_minutes is not None and time.monotonic() - self.began > 60 * settings.max_minutes:
                reason = f"trainer.max_minutes={settings.max_minutes} are over"
            over = step == settings.num_steps or bool(reason)
            evaluate = over or (settings.eval_every is not None and step % settings.eval_every == 0)
            log = over or step % settings.log_every == 0
            asked = "" if over else self.hooks.stop()
            save = not over and (evaluate or bool(asked) or settings.checkpoint_due(step))
            if (log or evaluate or save) and (diverged := unread.diverged()):
                return diverged
            if log:
                self.hooks.log(step, {**meter.read(), "lr": full_lrs[0][0] * factor})
            if evaluate:
                with meter.paused():
                    self._evaluate(step, best)
            if best.exhausted and not over:
                reason = f"trainer.patience: {best.since} evaluations without a better {settings.best_metric}"
                if meter.parts:
                    self.hooks.log(step, {**meter.read(), "lr": full_lrs[0][0] * factor})
            if over or reason:
                break
            if save:
                with meter.paused():
                    self.hooks.checkpoint("last", step, {})
            if asked:
                return Outcome(Status.preempted, step, asked)
        self.hooks.checkpoint("last", self.step, {})
        return Outcome(Status.done, self.step, reason)

    def state(self) -> dict[str, Tensor]:
        """All that training carries from step to step beside the policy's weights."""
        seconds = time.monotonic() - self.began
        own = {"step": self.step, "seconds": seconds, "best": self.best.value, "since": self.best.since}
        return {
            **prefixed("trainer", numbers(own)),
            **prefixed("random", random_state(self.compute.torch_device)),
            **prefixed("optimizer", optimizer_state(self.policy, self.optimizers)),
            **prefixed("meter", tally_state(self.meter.parts)),
            **prefixed("loss", numbers(self.loss.state)),
            **prefixed("reference", {} if self.reference is None else self.reference.state()),
        }

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        own = {name: float(value) for name, value in below("trainer", state).items()}
        self.step, self.began = int(own["step"]), time.monotonic() - own["seconds"]
        self.best.value, self.best.since = own["best"], int(own["since"])
        set_random_state(below("random", state), self.compute.torch_device)
        set_optimizer_state(self.policy, self.optimizers, below("optimizer", state))
        self.meter.parts = tallies(below("meter", state), self.compute.torch_device)
        self.loss.state = {name: float(value) for name, value in below("loss", state).items()}
        if self.reference is not None:
            self.reference.restore(below("reference", state))

    @property
    def objective(self) -> Objective:
        size, tokens = self.settings.micro_batch_size, self.settings.micro_batch_tokens
        return Objective(self.policy, self.loss, self.reference, self.compute, size, tokens, scoring=self.scoring)

    def _set_learning_rates(self, step: int, full: list[list[float]]) -> float:
        factor = self.schedule.factor(step, self.settings.num_steps)
        for optimizer, lrs in zip(self.optimizers, full, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor
        return factor

    def _rows(self, step: int) -> Tensor:
        if self.rows is not None:
            return self.rows(step)
        return batch_rows(self.seed, step, self.settings.batch_size, len(self.data), self._lengths, self.settings.length_window)

    @cached_property
    def _lengths(self) -> Tensor:
        return longest_rows(self.data)

    def _gradients(self, batch: CandidateBatch, first: bool) -> Tally:
        """Fill the gradients of one optimiser step, clipped; its metrics."""
        self.policy.zero_grad(set_to_none=True)
        tally = self.objective.fill_gradients(batch, self._check_start if first else None)
        limit = self.settings.clip if self.settings.clip is not None else math.inf
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), limit)
        tokens = batch.mask.sum() + batch.num_candidates * batch.prompt_mask.sum()
        return {**tally, "grad_norm": once(norm), "tokens": once(tokens)}

    def _evaluate(self, step: int, best: Best) -> None:
        if self.hooks.evaluate is None:
            return
        self.policy.eval()
        metrics = self.hooks.evaluate(step)
        self.policy.train(self.settings.dropout)
        if best.improved_by(metrics):
            self.hooks.checkpoint("best", step, metrics)

    def _check_start(self, values: Tensor, logps: Logps) -> None:
        """Say so where the policy, which starts as the reference, does not score as it."""
        expected = self.loss.value_at_reference(len(logps.mask))
        if not self.starts_at_reference or logps.reference is None or expected is None or not logps.mask.any():
            return
        furthest = float((logps.policy.detach() - logps.reference).abs().max())
        if furthest > (1e-3 if self.compute.autocast_is_off else 0.25):  # nats a token; bfloat16 rounds logits that much
            self.hooks.warn(
                f"the policy starts as the reference, so the first {self.loss.name} loss should be {expected:.4f}; it is "
                f"{float(values.mean()):.4f}, with log-probabilities up to {furthest:.3g} nats a token apart. "
                + ("Dropout is on (trainer.dropout=true)." if self.settings.dropout else "Their weights or dtypes differ.")
            )
