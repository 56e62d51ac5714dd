"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, Optimizer

from dpo_lab.training.optimizers.base import OPTIMIZERS, OptimizerSpec, check_not_negative, trained_parameters


@OPTIMIZERS.register
@dataclass
class SGDSpec(OptimizerSpec):
    """Stochastic gradient descent, plain or with momentum."""

    name: str = "sgd"
    lr: float = 0.1
    """Learning rate, which the schedule scales."""
    momentum: float = 0.0
    """Share of the last update that is added to the next."""

    def __post_init__(self) -> None:
        check_not_negative(lr=self.lr, momentum=self.momentum)

    def build(self, model: nn.Module) -> list[Optimizer]:
        return [SGD(trained_parameters(model), lr=self.lr, momentum=self.momentum)]
