"""Guards: bounds on every step and every evaluation, and what is done when one of them is broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from dpo_lab.training.clipping import Norms
from dpo_lab.training.metrics import Tally

MAX_SKIPPED_IN_A_ROW = 20
"""Training diverged when this many steps in a row were skipped."""
SHOWN_IDS = 16


class DivergenceError(Exception):
    """A guard ends the training: `steps` were good, the message says what went wrong."""

    def __init__(self, steps: int, reason: str) -> None:
        super().__init__(reason)
        self.steps = steps


class Action(Enum):
    """What a guard does: print a warning, skip the step, or end the run as diverged."""

    warn = "warn"
    skip = "skip"
    stop = "stop"


@dataclass
class GuardSettings:
    """Bounds that training must keep; None: no bound.

    On a CPU each step is checked before it is taken. On an accelerator that would mean waiting for every step, so there the
    check lags: steps are checked together, just before metrics are logged or a checkpoint is saved. A run that stops has then
    taken a few more steps, but saved none of them. `skip` cannot lag: with it, an accelerator waits once a step.
    """

    non_finite: Action = Action.stop
    """A loss or gradient that is inf or nan: stop or skip."""
    max_margin: float | None = None
    """Largest mean reward margin of a step."""
    max_drop: float | None = None
    """Nats by which a step's chosen completions may on average be less likely than under the reference."""
    max_kl: float | None = None
    """Largest KL of an evaluation, in nats. An evaluation has no step to skip: skip only warns, as warn does."""
    beyond: Action = Action.warn
    """What is done when a bound is exceeded."""

    def __post_init__(self) -> None:
        if self.non_finite is Action.warn:
            raise ValueError("trainer.guards.non_finite=warn would go on with weights that are no numbers: choose skip or stop")
        for name in ("max_margin", "max_drop", "max_kl"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"trainer.guards.{name} must be > 0, got {bound}")
        if self.beyond is not Action.warn and self.max_margin is None and self.max_drop is None and self.max_kl is None:
            raise ValueError(
                f"trainer.guards.beyond={self.beyond.value} is for what lies beyond a bound, and none is set: set "
                "trainer.guards.max_margin, max_drop or max_kl"
            )

    @property
    def may_skip(self) -> bool:
        """A step can be skipped, so each must be checked before it is taken."""
        bounded = self.max_margin is not None or self.max_drop is not None
        return self.non_finite is Action.skip or (bounded and self.beyond is Action.skip)


@dataclass
class Record:
    """How often one bound was broken, at which steps, and the last value."""

    count: int
    first_step: int
    last_step: int
    value: float


@dataclass
class _Step:
    step: int
    ids: Tensor
    numbers: Tensor
    """Loss and gradient norm, then the quantities that have a bound."""
    norms: Norms


class Guard:
    """Checks the steps and evaluations of one training.

    With `lags` a step is only queued by `check_step`, and checked by the next `catch_up`.
    """

    def __init__(
        self,
        settings: GuardSettings,
        warn: Callable[[str], None] = lambda text: None,
        noticed: Callable[[Mapping[str, Record]], None] = lambda records: None,
        lags: bool = False,
    ) -> None:
        self.settings = settings
        self.warn = warn
        self.noticed = noticed
        """Called with all records whenever one is added or counted up."""
        self.lags = lags and not settings.may_skip
        self.records: dict[str, Record] = {}
        self.skipped_in_a_row = 0
        self._queue: list[_Step] = []
        bounds = {"margin": settings.max_margin, "drop": settings.max_drop}
        self._bounds = {name: bound for name, bound in bounds.items() if bound is not None}

    def check_step(self, step: int, ids: Tensor, tally: Tally, norms: Norms) -> bool:
        """Whether a step may be taken. Raises DivergenceError where it ends the run; with a lag, `catch_up` does."""
        numbers = [tally["loss"][0], tally["grad_norm"][0], *(_quantity(name, tally) for name in self._bounds)]
        self._queue.append(_Step(step, ids, torch.stack([number.detach().float() for number in numbers]), norms))
        return self.lags or self.catch_up()

    def catch_up(self) -> bool:
        """Check the queued steps: whether the last may be taken. Raises DivergenceError where one ends the run."""
        steps, self._queue = self._queue, []
        if not steps:
            return True
        return [self._check(step, values) for step, values in zip(steps, _read(steps), strict=True)][-1]

    def check_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises DivergenceError where an evaluation ends the run."""
        bound = self.settings.max_kl
        if bound is None:
            return
        if "kl" not in metrics:
            raise ValueError("trainer.guards.max_kl: the evaluations of this run measure no kl")
        if not metrics["kl"] <= bound:  # nan is beyond it, too
            reason = f"kl is {metrics['kl']:.4g} at step {step}, over trainer.guards.max_kl={bound:g}"
            self._record("kl", step, metrics["kl"], self.settings.beyond, reason)
            if self.settings.beyond is Action.stop:
                raise DivergenceError(step, reason)

    def _check(self, step: _Step, values: Sequence[float]) -> bool:
        """Whether the step may be taken."""
        skip = False
        for name, value, action, reason in self._broken(step, values):
            self._record(name, step.step, value, action, reason)
            if action is Action.stop:
                raise DivergenceError(step.step - 1, reason)
            skip |= action is Action.skip
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skip else 0
        if self.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise DivergenceError(step.step - 1, f"{MAX_SKIPPED_IN_A_ROW} steps in a row left out, the last: {reason}")
        return not skip

    def _broken(self, step: _Step, values: Sequence[float]) -> list[tuple[str, float, Action, str]]:
        """Each bound that a step breaks: its name, the value, what to do, and a sentence for the user."""
        for name, value in zip(("loss", "grad_norm"), values, strict=False):
            if not math.isfinite(value):
                shown = step.ids[:SHOWN_IDS].tolist()
                more = f" and {len(step.ids) - len(shown)} more" if len(step.ids) > len(shown) else ""
                where = f", first in {_first_non_finite(step.norms)}" if name == "grad_norm" else ""
                reason = f"{name} became {value} at step {step.step}, on the pairs with ids {shown}{more}{where}"
                return [(name, value, self.settings.non_finite, reason)]
        broken = []
        for (name, bound), value in zip(self._bounds.items(), values[2:], strict=True):
            if not value <= bound:
                reason = f"{name} is {value:.4g} at step {step.step}, over trainer.guards.max_{name}={bound:g}"
                broken.append((name, value, self.settings.beyond, reason))
        return broken

    def _record(self, name: str, step: int, value: float, action: Action, reason: str) -> None:
        """Count a broken bound, and warn at the 1st, 10th, 100th ... time if training goes on."""
        before = self.records.get(name, Record(0, step, step, value))
        count = before.count + 1
        self.records[name] = Record(count, before.first_step, step, value)
        if action is not Action.stop and 10 ** round(math.log10(count)) == count:
            left_out = "; the step is left out" if action is Action.skip and name != "kl" else ""
            self.warn(f"{reason}{left_out}" + (f" (for the {count}th time)" if count > 1 else ""))
        self.noticed(self.records)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the guard."""
        records = {
            name: torch.tensor([record.count, record.first_step, record.last_step, record.value], dtype=torch.float64)
            for name, record in self.records.items()
        }
        return {**records, "in_a_row": torch.tensor([self.skipped_in_a_row], dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name, numbers in state.items():
            if name == "in_a_row":
                self.skipped_in_a_row = int(numbers)
            else:
                count, first, last, value = numbers.tolist()
                self.records[name] = Record(int(count), int(first), int(last), value)


def _read(steps: Sequence[_Step]) -> list[list[float]]:
    """The numbers of all steps, in one copy from the device."""
    rows: list[list[float]] = torch.stack([step.numbers for step in steps]).tolist()
    return rows


def _first_non_finite(norms: Norms) -> str:
    """Name of the first parameter whose gradient is inf or nan."""
    return next((name for name, norm in norms.items() if not norm.isfinite()), "no parameter, but in their sum")


def _quantity(name: str, tally: Mapping[str, Any]) -> Tensor:
    """The mean of the quantity that a bound is on. Raises ValueError where the loss does not measure it."""
    needed = ("rewards/margins",) if name == "margin" else ("ref_logps/chosen", "logps/chosen")
    if any(metric not in tally for metric in needed):
        raise ValueError(f"trainer.guards.max_{name} is a bound on {needed[0]}, which this loss or data does not have")
    means: list[Tensor] = [tally[metric][0] / tally[metric][1] for metric in needed]
    value = means[0] if name == "margin" else means[0] - means[1]
    return torch.where(tally[needed[0]][1] > 0, value, -math.inf)  # a step of single completions may have no chosen one
