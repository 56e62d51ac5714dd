"""Which evaluation was the best, and when to give up waiting for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dpo_lab.registry import suggestion


class Best:
    """The best evaluation so far, and how many have passed since."""

    def __init__(self, metric: str, patience: int | None) -> None:
        self.metric = metric
        self.patience = patience
        self.value = math.inf
        self.since = 0

    def improved_by(self, metrics: Mapping[str, float]) -> bool:
        name = self.metric
        if name not in metrics:
            raise ValueError(f"trainer.best_metric '{name}' is not evaluated.{suggestion(name, metrics)}")
        value = metrics[name] if name.endswith("loss") or name.startswith("kl") else -metrics[name]
        if value < self.value:  # false for nan
            self.value, self.since = value, 0
            return True
        self.since += 1
        return False

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.since >= self.patience
