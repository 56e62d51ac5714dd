"""AdamW."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.optim import AdamW, Optimizer

from dpo_lab.training.optimizers.base import (
    OPTIMIZERS,
    OptimizerSpec,
    check_betas,
    check_not_negative,
    trained_parameters,
)


@OPTIMIZERS.register
@dataclass
class AdamWSpec(OptimizerSpec):
    """Adam with decoupled weight decay, in its fused form: the usual choice. Loshchilov and Hutter 2019, arXiv:1711.05101."""

    name: str = "adamw"
    lr: float = 3e-4
    """Learning rate, which the schedule scales."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """Decay rates of the averages of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the root of the second average."""
    weight_decay: float = 0.0
    """Decoupled: each step shrinks a weight by lr * weight_decay of itself."""

    def __post_init__(self) -> None:
        check_not_negative(lr=self.lr, eps=self.eps, weight_decay=self.weight_decay)
        check_betas("betas", self.betas)

    def build(self, model: nn.Module) -> list[Optimizer]:
        return [self.on(trained_parameters(model))]

    def on(self, parameters: list[nn.Parameter]) -> Optimizer:
        """AdamW on some of a model's parameters."""
        betas = (self.betas[0], self.betas[1])
        return AdamW(parameters, lr=self.lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay, fused=True)
