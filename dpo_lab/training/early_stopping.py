"""Early stopping: which evaluation was the best, and how long no better one has come."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dpo_lab.registry import suggestion


class EarlyStopping:
    """The best value of one metric so far, and the number of evaluations since."""

    def __init__(self, metric: str, patience: int | None) -> None:
        self.metric = metric
        self.patience = patience
        self.value = math.inf
        """The best one, its sign turned where higher is better."""
        self.since = 0

    def improved_by(self, metrics: Mapping[str, float]) -> bool:
        """Count an evaluation: whether it is the best so far. Raises ValueError where it lacks the metric."""
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
    def out_of_patience(self) -> bool:
        return self.patience is not None and self.since >= self.patience
