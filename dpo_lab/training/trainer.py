"""Gradient descent on a preference loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.scoring.logps import Scoring
from dpo_lab.scoring.micro_batches import longest_rows
from dpo_lab.seeding import seed_torch
from dpo_lab.training.clipping import Norms, clip
from dpo_lab.training.compute import Compute
from dpo_lab.training.early_stopping import Best
from dpo_lab.training.guards import Guard, Record
from dpo_lab.training.initial_loss import remark_on_start
from dpo_lab.training.metrics import Meter, Tally, once
from dpo_lab.training.objective import Objective
from dpo_lab.training.optim import ScheduleSpec
from dpo_lab.training.preflight import evaluation_explained, longest_step, memory_explained, try_out
from dpo_lab.training.references.base import Reference
from dpo_lab.training.result import Outcome, Status
from dpo_lab.training.sampler import batch_rows
from dpo_lab.training.settings import TrainerSettings
from dpo_lab.training.train_state import (
    below,
    loss_state,
    loss_values,
    numbers,
    optimizer_state,
    prefixed,
    random_state,
    set_optimizer_state,
    set_random_state,
    tallies,
    tally_state,
)

T = TypeVar("T")


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
    guarded: Callable[[Mapping[str, Record]], None] = lambda records: None
    """What the guards have noticed so far, whenever that is more than before."""
    rehearse: Callable[[], None] = lambda: None
    """The largest passes of an evaluation, for the pre-flight."""


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
        if self.rows is None:
            self.settings.check_rows(len(self.data), "rows")
        self.best = Best(self.settings.best_metric, self.settings.patience)
        self.meter, self.began = Meter(self.settings.batch_size), time.monotonic()
        self.guard = Guard(self.settings.guards, self.hooks.warn)

    def fit(self) -> Outcome:
        settings, best, meter, guard = self.settings, self.best, self.meter, self.guard
        at_once = settings.guards.waits or not self.compute.reading_waits
        seed_torch(self.seed, "dropout")
        self.policy.train(settings.dropout)
        self.objective.loss_state = self.loss.initial_state()
        full_lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        if self.compute.reading_waits if settings.preflight is None else settings.preflight:
            self._preflight()
        if self.resume is None:
            self._evaluate(0, best)
        else:
            self._restore(self.resume)
        meter.began = time.monotonic()
        for step in range(self.step + 1, settings.num_steps + 1) if not self._enough() else ():
            batch = replace(self.data.select(self._rows(step - 1)), step=step)
            factor = self._set_learning_rates(step - 1, full_lrs)
            tally, norms = self._gradients(batch, first=step == 1)
            guard.add(step, batch.ids, tally, norms)
            leave_out, ended = self._telling(guard.read) if at_once else (False, None)
            if ended is not None:
                return ended
            if not leave_out:
                for optimizer in self.optimizers:
                    optimizer.step()
                if self.reference is not None:
                    self.reference.follow(self.policy, step)
                meter.add(tally)
            self.step = step
            over = step == settings.num_steps or self._time_is_over
            evaluate = over or (settings.eval_every is not None and step % settings.eval_every == 0)
            log = over or step % settings.log_every == 0
            asked = "" if over else self.hooks.stop()
            save = not over and (evaluate or bool(asked) or settings.checkpoint_due(step))
            if (log or evaluate or save) and not at_once:
                _, ended = self._telling(guard.read)
                if ended is not None:
                    return ended
            if log:
                self._log(step, full_lrs[0][0] * factor)
            if evaluate:
                with meter.paused():
                    ended = self._evaluate(step, best)
                if ended is not None:
                    return ended
            if best.exhausted and not over:
                self._log(step, full_lrs[0][0] * factor)
            if over or best.exhausted:
                break
            if save:
                with meter.paused():
                    self.hooks.checkpoint("last", step, {})
            if asked:
                return Outcome(Status.preempted, step, asked)
        self.hooks.checkpoint("last", self.step, {})
        reason = self._enough()
        return Outcome(Status.done, self.step, reason, by_the_clock=bool(reason) and not best.exhausted)

    @property
    def _time_is_over(self) -> bool:
        minutes = self.settings.max_minutes
        return minutes is not None and time.monotonic() - self.began > 60 * minutes

    def _enough(self) -> str:
        """Why training ends before its last step; "" if it does not."""
        if self.step == self.settings.num_steps:
            return ""
        if self.best.exhausted:
            return f"trainer.patience: {self.best.since} evaluations without a better {self.settings.best_metric}"
        over = self.step > 0 and self._time_is_over  # a step is taken, whatever the first evaluation takes
        return f"trainer.max_minutes={self.settings.max_minutes:g} are over" if over else ""

    def state(self) -> dict[str, Tensor]:
        """All that training carries from step to step beside the policy's weights."""
        seconds = time.monotonic() - self.began
        own = {"step": self.step, "seconds": seconds, "best": self.best.value, "since": self.best.since}
        return {
            **prefixed("trainer", numbers(own)),
            **prefixed("random", random_state(self.compute.torch_device)),
            **prefixed("optimizer", optimizer_state(self.policy, self.optimizers)),
            **prefixed("meter", tally_state(self.meter.parts)),
            **prefixed("loss", loss_state(self.objective.loss_state)),
            **prefixed("guard", self.guard.state()),
            **prefixed("reference", {} if self.reference is None else self.reference.state()),
        }

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        own = {name: float(value) for name, value in below("trainer", state).items()}
        self.step, self.began = int(own["step"]), time.monotonic() - own["seconds"]
        self.best.value, self.best.since = own["best"], int(own["since"])
        set_random_state(below("random", state), self.compute.torch_device)
        set_optimizer_state(self.policy, self.optimizers, below("optimizer", state))
        self.meter.parts = tallies(below("meter", state), self.compute.torch_device)
        self.objective.loss_state = loss_values(below("loss", state), self.compute.torch_device)
        self.guard.restore(below("guard", state))
        if self.reference is not None:
            self.reference.restore(below("reference", state))

    @cached_property
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

    def _preflight(self) -> None:
        """Raises ValueError where the longest batch, or the largest pass of an evaluation, does not fit into memory."""
        longest = longest_step(self._rows, self._lengths, self.settings.num_steps)
        try_out(self.objective, self.data.select(self._rows(longest)), self.settings, self.hooks.rehearse)

    def _gradients(self, batch: CandidateBatch, first: bool) -> tuple[Tally, Norms]:
        """Fill the gradients of one optimiser step, clipped; its metrics, and the gradients' norms."""
        self.policy.zero_grad(set_to_none=True)
        with memory_explained(batch, self.settings):
            tally = self.objective.fill_gradients(batch, self._compare_start if first else None)
        norm, norms = clip(self.policy, self.settings.clip)
        return {**tally, "grad_norm": once(norm), "tokens": once(batch.num_tokens)}, norms

    def _log(self, step: int, lr: float) -> None:
        """The means since the last time, if there were steps to take them over."""
        if self.meter.parts:
            self.hooks.log(step, {**self.meter.read(), "lr": lr})

    def _telling(self, look: Callable[[], T]) -> T:
        """What a look by the guard finds; `hooks.guarded` is told if it has noticed something."""
        known = self.guard.count
        found = look()
        if self.guard.count > known:
            self.hooks.guarded(self.guard.records)
        return found

    def _evaluate(self, step: int, best: Best) -> Outcome | None:
        """How training ended, if the evaluation says that it has to."""
        if self.hooks.evaluate is None:
            return None
        self.policy.eval()
        with evaluation_explained(self.settings):
            metrics = self.hooks.evaluate(step)
        self.policy.train(self.settings.dropout)
        if best.improved_by(metrics):
            self.hooks.checkpoint("best", step, metrics)
        return self._telling(lambda: self.guard.evaluated(step, metrics))

    def _compare_start(self, values: Tensor, logps: Logps) -> None:
        """Say so where the policy, which starts as the reference, does not score as it."""
        remark = (
            remark_on_start(self.loss, values, logps, self.compute, self.settings.dropout) if self.starts_at_reference else ""
        )
        if remark:
            self.hooks.warn(remark)
