"""Training that goes wrong: what counts as that, how it is noticed, and what is done about it."""

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
from dpo_lab.training.result import Outcome, Status

IN_A_ROW = 20
"""So many steps left out one after the other end the run: it is going nowhere."""
SHOWN_IDS = 16


class Action(Enum):
    """Say so and go on; leave the step out and go on; end the run as diverged."""

    warn = "warn"
    skip = "skip"
    stop = "stop"


@dataclass
class GuardSettings:
    """What counts as training that goes wrong. A bound of None is not watched.

    On a CPU a step is looked at before it is taken. On an accelerator that would make it wait, so there steps are looked at
    when metrics are logged: a run that stops has then taken some steps more, and saved none of them. `skip` has to know in
    time: with it, an accelerator waits once a step.
    """

    non_finite: Action = Action.stop
    """A loss or gradient that is no number: stop or skip."""
    max_margin: float | None = None
    """Largest mean margin of a step, in rewards."""
    max_drop: float | None = None
    """Nats by which a step's chosen completions may on average be less likely than under the reference."""
    max_kl: float | None = None
    """Largest KL of an evaluation, in nats. There is no step to skip there: skip says so, as warn does."""
    beyond: Action = Action.warn
    """What is done beyond a bound."""

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
    def waits(self) -> bool:
        """Each step must be known before it is taken."""
        bounded = self.max_margin is not None or self.max_drop is not None
        return self.non_finite is Action.skip or (bounded and self.beyond is Action.skip)


@dataclass
class Record:
    """Where something went wrong: how often, from which step to which, and the last value."""

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
    """Looks at steps and evaluations, for as long as one training lasts."""

    def __init__(self, settings: GuardSettings, warn: Callable[[str], None]) -> None:
        self.settings = settings
        self.warn = warn
        self.records: dict[str, Record] = {}
        self.in_a_row = 0
        """Steps left out, up to now."""
        self._unread: list[_Step] = []
        bounds = {"margin": settings.max_margin, "drop": settings.max_drop}
        self._bounds = {name: bound for name, bound in bounds.items() if bound is not None}

    @property
    def count(self) -> int:
        """How often anything was noticed."""
        return sum(record.count for record in self.records.values())

    def add(self, step: int, ids: Tensor, tally: Tally, norms: Norms) -> None:
        """A step before it is taken."""
        numbers = [tally["loss"][0], tally["grad_norm"][0], *(_quantity(name, tally) for name in self._bounds)]
        self._unread.append(_Step(step, ids, torch.stack([number.detach().float() for number in numbers]), norms))

    def read(self) -> tuple[bool, Outcome | None]:
        """Look at the steps since the last look: is the last one to be left out, and how training ended if it has to."""
        steps, self._unread = self._unread, []
        leave_out = False
        for step, values in zip(steps, torch.stack([step.numbers for step in steps]).tolist() if steps else [], strict=True):
            leave_out = False
            for what, value, action, why in self._wrong(step, values):
                self._record(what, step.step, value, action, why)
                if action is Action.stop:
                    return False, Outcome(Status.diverged, step.step - 1, why)
                leave_out |= action is Action.skip
            self.in_a_row = self.in_a_row + 1 if leave_out else 0
            if self.in_a_row == IN_A_ROW:
                return False, Outcome(Status.diverged, step.step - 1, f"{IN_A_ROW} steps in a row left out, the last: {why}")
        return leave_out, None

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Outcome | None:
        """How training ended, if an evaluation says that it has to."""
        bound = self.settings.max_kl
        if bound is None:
            return None
        if "kl" not in metrics:
            raise ValueError("trainer.guards.max_kl: the evaluations of this run measure no kl")
        if metrics["kl"] <= bound:
            return None
        why = f"kl is {metrics['kl']:.4g} at step {step}, over trainer.guards.max_kl={bound:g}"
        self._record("kl", step, metrics["kl"], self.settings.beyond, why)
        return Outcome(Status.diverged, step, why) if self.settings.beyond is Action.stop else None

    def _wrong(self, step: _Step, values: Sequence[float]) -> list[tuple[str, float, Action, str]]:
        for what, value in zip(("loss", "grad_norm"), values, strict=False):
            if not math.isfinite(value):
                shown = step.ids[:SHOWN_IDS].tolist()
                more = f" and {len(step.ids) - len(shown)} more" if len(step.ids) > len(shown) else ""
                where = f", first in {_first_wrong(step.norms)}" if what == "grad_norm" else ""
                why = f"{what} became {value} at step {step.step}, on the pairs with ids {shown}{more}{where}"
                return [(what, value, self.settings.non_finite, why)]
        found = []
        for (what, bound), value in zip(self._bounds.items(), values[2:], strict=True):
            if not value <= bound:
                text = f"{what} is {value:.4g} at step {step.step}, over trainer.guards.max_{what}={bound:g}"
                found.append((what, value, self.settings.beyond, text))
        return found

    def _record(self, what: str, step: int, value: float, action: Action, why: str) -> None:
        known = self.records.get(what)
        self.records[what] = Record(1 if known is None else known.count + 1, known.first_step if known else step, step, value)
        count = self.records[what].count
        if action is not Action.stop and 10 ** round(math.log10(count)) == count:  # the 1st, 10th, 100th ... time
            left_out = "; the step is left out" if action is Action.skip and what != "kl" else ""
            self.warn(f"{why}{left_out}" + (f" (for the {count}th time)" if count > 1 else ""))

    def state(self) -> dict[str, Tensor]:
        """What an interrupted run goes on with."""
        held = {
            what: torch.tensor([record.count, record.first_step, record.last_step, record.value], dtype=torch.float64)
            for what, record in self.records.items()
        }
        return {**held, "in_a_row": torch.tensor([self.in_a_row], dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for what, numbers in state.items():
            if what == "in_a_row":
                self.in_a_row = int(numbers)
            else:
                count, first, last, value = numbers.tolist()
                self.records[what] = Record(int(count), int(first), int(last), value)


def _first_wrong(norms: Norms) -> str:
    """Name of the first parameter whose gradient is no number."""
    return next((name for name, norm in norms.items() if not norm.isfinite()), "no parameter, but in their sum")


def _quantity(name: str, tally: Mapping[str, Any]) -> Tensor:
    """The mean of what a bound is on. Raises ValueError where the loss does not measure it."""
    needed = ("rewards/margins",) if name == "margin" else ("ref_logps/chosen", "logps/chosen")
    if any(metric not in tally for metric in needed):
        raise ValueError(f"trainer.guards.max_{name} is a bound on {needed[0]}, which this loss or data does not have")
    means: list[Tensor] = [tally[metric][0] / tally[metric][1] for metric in needed]
    value = means[0] if name == "margin" else means[0] - means[1]
    return torch.where(tally[needed[0]][1] > 0, value, -math.inf)  # a step of single completions may have no chosen one
