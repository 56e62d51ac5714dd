"""What an optimiser's settings are: fields, their checks, and the optimisers that they build for a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from dpo_lab.registry import Registry


@dataclass
class OptimizerSpec:
    """The settings of an optimiser."""

    name: str

    def build(self, model: nn.Module) -> list[Optimizer]:
        """One or several optimisers that step together, each on its own parameters."""
        raise NotImplementedError


OPTIMIZERS: Registry[OptimizerSpec] = Registry("optimizer", "dpo_lab.training.optimizers")


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes: under an adapter, only the adapter's."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def check_not_negative(**settings: float) -> None:
    """Raises ValueError for a negative, infinite or missing number."""
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"optimizer.{name} must be a number >= 0, got {value}")


def check_betas(name: str, betas: list[float]) -> None:
    """Raises ValueError for what are not Adam's two decay rates."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"optimizer.{name} must be two numbers in [0, 1), got {betas}")
