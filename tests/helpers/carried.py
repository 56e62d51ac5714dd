"""A loss together with the state that it carries from step to step, as who trains with it keeps it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dpo_lab.losses import PreferenceLoss
from dpo_lab.losses.base import State
from dpo_lab.records import CandidateBatch, Logps


class Carried:
    """Whatever is asked of it is asked of the loss, with the state as it is then."""

    def __init__(self, loss: PreferenceLoss, state: State | None = None) -> None:
        self.loss, self.state = loss, loss.initial_state() if state is None else state

    def observe(self, logps: Logps, batch: CandidateBatch) -> None:
        self.state = self.loss.observe(logps, batch, self.state)

    def __call__(self, logps: Logps, batch: CandidateBatch) -> Tensor:
        return self.loss(logps, batch, self.state)

    def rewards(self, logps: Logps, batch: CandidateBatch) -> Tensor:
        return self.loss.rewards(logps, batch, self.state)

    def extra_metrics(self, logps: Logps, batch: CandidateBatch) -> dict[str, Tensor]:
        return self.loss.extra_metrics(logps, batch, self.state)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loss, name)
