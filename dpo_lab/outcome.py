"""How training ended, and how it is found out that it has to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from dpo_lab.metrics import Tally


class Status(Enum):
    """How training ended."""

    done = "done"
    diverged = "diverged"
    preempted = "preempted"


@dataclass
class Outcome:
    """How training ended, after how many steps, and why if not at its limit."""

    status: Status
    steps: int
    reason: str = ""


class Unread:
    """The losses and gradient norms that nobody has looked at yet: to read each would make an accelerator wait."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, Tensor, dict[str, Tensor]]] = []

    def add(self, step: int, ids: Tensor, tally: Tally) -> None:
        self.steps.append((step, ids, {what: tally[what][0].detach() for what in ("loss", "grad_norm")}))

    def diverged(self) -> Outcome | None:
        """How training ended, if at one of these steps it did. They are then read."""
        steps, self.steps = self.steps, []
        numbers = [number for _, _, found in steps for number in found.values()]
        finite = torch.stack([number.isfinite() for number in numbers]).tolist() if numbers else []
        if all(finite):
            return None
        step, ids, found = steps[finite.index(False) // 2]
        what = next(name for name, number in found.items() if not number.isfinite())
        reason = f"{what} became {float(found[what])} at step {step}, on the pairs with ids {ids.tolist()}"
        return Outcome(Status.diverged, step - 1, reason)
