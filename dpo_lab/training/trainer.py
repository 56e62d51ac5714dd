"""Gradient descent on a preference loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, nn
from torch.optim import Optimizer

from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.logps import Scoring
from dpo_lab.scoring.micro_batches import row_lengths
from dpo_lab.seeding import seed_torch
from dpo_lab.training.clipping import Norms, clip
from dpo_lab.training.compute import Compute
from dpo_lab.training.early_stopping import EarlyStopping
from dpo_lab.training.guards import DivergenceError, Guard, Record
from dpo_lab.training.metrics import Meter, Tally, count_once
from dpo_lab.training.objective import Objective
from dpo_lab.training.preflight import check_initial_loss, evaluation_explained, longest_step, memory_explained, try_out
from dpo_lab.training.references.base import Reference
from dpo_lab.training.result import Status, TrainResult
from dpo_lab.training.sampler import batch_rows
from dpo_lab.training.schedules import ScheduleSpec
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
)


@dataclass
class Hooks:
    """What the trainer calls. Each may be left out."""

    log: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
    """Gets the means since the last call, every `log_every` steps and after the last."""
    evaluate: Callable[[int], Mapping[str, float]] | None = None
    """Returns metrics. Called before the first step, every `eval_every` steps and after the last."""
    checkpoint: Callable[[str, int, Mapping[str, float]], None] = lambda kind, step, metrics: None
    """Saves a "best" or the "last" state: after evaluations, when a checkpoint is due, and at the end."""
    stop: Callable[[], str] = lambda: ""
    """The reason why training has to stop once this step is saved, such as a signal; "" while there is none."""
    warn: Callable[[str], None] = lambda text: None
    guarded: Callable[[Mapping[str, Record]], None] = lambda records: None
    """Gets all records of the guards whenever one is added or counted up."""
    rehearse: Callable[[], None] = lambda: None
    """Runs the largest passes of an evaluation, for the pre-flight."""


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
        self.early_stopping = EarlyStopping(self.settings.best_metric, self.settings.patience)
        self.meter, self.began = Meter(self.settings.batch_size), time.monotonic()
        self.guard = Guard(self.settings.guards, self.hooks.warn, self.hooks.guarded, lags=self.compute.reading_waits)

    def fit(self) -> TrainResult:
        """Take steps until one of the limits, the guard or `hooks.stop` ends the training; all but the guard save its state."""
        try:
            self._start()
            end = self._end()
            while end is None:
                self._take_step()
                end = self._follow_up()
        except DivergenceError as error:
            return TrainResult(Status.diverged, error.steps, str(error))
        if end.status is Status.done:
            self._log()  # the steps before patience ran out
        self.hooks.checkpoint("last", self.step, {})
        return end

    def _start(self) -> None:
        """Everything before the first step."""
        seed_torch(self.seed, "dropout")
        self.policy.train(self.settings.dropout)
        self.objective.loss_state = self.loss.initial_state()
        self._preflight()
        if self.resume is None:
            self._evaluate()
        else:
            self._restore(self.resume)
        self._full_lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.meter.began = time.monotonic()

    def _take_step(self) -> None:
        """One optimiser step, unless the guard has it skipped."""
        step = self.step + 1
        batch = replace(self.data.select(self._rows(self.step)), step=step)
        self._set_learning_rates()
        tally, norms = self._gradients(batch)
        if self.guard.check_step(step, batch.ids, tally, norms):
            for optimizer in self.optimizers:
                optimizer.step()
            if self.reference is not None:
                self.reference.follow(self.policy, step)
            self.meter.add(tally)
        self.step = step

    def _follow_up(self) -> TrainResult | None:
        """Log, evaluate and save what is due after a step: the result, if training has ended."""
        settings, end = self.settings, self._end()
        last = end is not None and end.status is Status.done
        log = last or self._is_due(settings.log_every)
        evaluate = last or self._is_due(settings.eval_every)
        save = evaluate or self._is_due(settings.checkpoint_every, settings.keep_every)
        if log or save or end is not None:
            self.guard.catch_up()  # nothing of a step that it would have stopped is logged or saved
        if log:
            self._log()
        with self.meter.paused():
            if evaluate:
                self._evaluate()
                end = self._end()  # the evaluation may have used up the patience, or the time
            if save and end is None:
                self.hooks.checkpoint("last", self.step, {})
        return end

    def _is_due(self, *intervals: int | None) -> bool:
        return any(every is not None and self.step % every == 0 for every in intervals)

    def _end(self) -> TrainResult | None:
        """Why no further step is taken; None while training goes on."""
        settings, stopping = self.settings, self.early_stopping
        if self.step == settings.num_steps:
            return TrainResult(Status.done, self.step)
        if stopping.out_of_patience:
            reason = f"trainer.patience: {stopping.since} evaluations without a better {stopping.metric}"
            return TrainResult(Status.done, self.step, reason)
        minutes = settings.max_minutes
        # At least one step is taken, however long the first evaluation is.
        if minutes is not None and self.step > 0 and time.monotonic() - self.began > 60 * minutes:
            return TrainResult(Status.done, self.step, f"trainer.max_minutes={minutes:g} are over", by_the_clock=True)
        asked = self.hooks.stop()
        return TrainResult(Status.preempted, self.step, asked) if asked else None

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the policy's weights."""
        own = {
            "step": self.step,
            "seconds": time.monotonic() - self.began,
            "best": self.early_stopping.value,
            "since": self.early_stopping.since,
        }
        return {
            **prefixed("trainer", numbers(own)),
            **prefixed("random", random_state(self.compute.torch_device)),
            **prefixed("optimizer", optimizer_state(self.policy, self.optimizers)),
            **prefixed("meter", self.meter.state()),
            **prefixed("loss", loss_state(self.objective.loss_state)),
            **prefixed("guard", self.guard.state()),
            **prefixed("reference", {} if self.reference is None else self.reference.state()),
        }

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        own = {name: float(value) for name, value in below("trainer", state).items()}
        self.step, self.began = int(own["step"]), time.monotonic() - own["seconds"]
        self.early_stopping.value, self.early_stopping.since = own["best"], int(own["since"])
        set_random_state(below("random", state), self.compute.torch_device)
        set_optimizer_state(self.policy, self.optimizers, below("optimizer", state))
        self.meter.restore(below("meter", state), self.compute.torch_device)
        self.objective.loss_state = loss_values(below("loss", state), self.compute.torch_device)
        self.guard.restore(below("guard", state))
        if self.reference is not None:
            self.reference.restore(below("reference", state))

    @cached_property
    def objective(self) -> Objective:
        size, tokens = self.settings.micro_batch_limits
        scoring = replace(self.scoring, micro_batch_size=size, micro_batch_tokens=tokens)
        return Objective(self.policy, self.loss, self.reference, self.compute, scoring)

    def _set_learning_rates(self) -> None:
        """Scale the optimisers' own learning rates as the schedule has it for the next step."""
        factor = self.schedule.factor(self.step, self.settings.num_steps)
        for optimizer, lrs in zip(self.optimizers, self._full_lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor

    def _rows(self, step: int) -> Tensor:
        if self.rows is not None:
            return self.rows(step)
        return batch_rows(self.seed, step, self.settings.batch_size, len(self.data), self._lengths, self.settings.length_window)

    @cached_property
    def _lengths(self) -> Tensor:
        return row_lengths(self.data)

    def _preflight(self) -> None:
        """Raises ValueError if the longest batch, or the largest pass of an evaluation, does not fit into memory."""
        wanted = self.settings.preflight
        if wanted is False or (wanted is None and not self.compute.reading_waits):
            return
        longest = longest_step(self._rows, self._lengths, self.settings.num_steps)
        try_out(self.objective, self.data.select(self._rows(longest)), self.settings, self.hooks.rehearse)

    def _gradients(self, batch: CandidateBatch) -> tuple[Tally, Norms]:
        """Fill the gradients of one optimiser step, clipped: the step's metrics, and the norm of each parameter's gradient."""
        self.policy.zero_grad(set_to_none=True)
        with memory_explained(batch, self.settings):
            outputs = self.objective.fill_gradients(batch)
        if batch.step == 1 and self.starts_at_reference:
            check_initial_loss(self.loss, outputs, self.compute, self.settings.dropout, self.hooks.warn)
        norm, norms = clip(self.policy, self.settings.clip)
        return {**outputs.metrics, "grad_norm": count_once(norm), "tokens": count_once(batch.num_tokens)}, norms

    def _log(self) -> None:
        """The means since the last call, if a step was taken since."""
        if self.meter.steps:
            self.hooks.log(self.step, {**self.meter.read(), "lr": self.optimizers[0].param_groups[0]["lr"]})

    def _evaluate(self) -> None:
        """Evaluate without dropout, save the best, and let the guard look at the metrics."""
        if self.hooks.evaluate is None:
            return
        self.policy.eval()
        with evaluation_explained(self.settings):
            metrics = self.hooks.evaluate(self.step)
        self.policy.train(self.settings.dropout)
        if self.early_stopping.improved_by(metrics):
            self.hooks.checkpoint("best", self.step, metrics)
        self.guard.check_evaluation(self.step, metrics)
