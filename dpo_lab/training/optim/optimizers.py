"""Optimisers, all PyTorch's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

from torch import nn
from torch.optim import SGD, AdamW, Muon, Optimizer

from dpo_lab.registry import Registry


@runtime_checkable
class NamesMatrices(Protocol):
    """A model that says which of its parameters are weight matrices between embedding and head."""

    def hidden_matrices(self) -> list[nn.Parameter]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


@dataclass
class OptimizerSpec:
    """Builds the optimisers of a model: one or several that step together, each on its own parameters."""

    name: str

    def build(self, model: nn.Module) -> list[Optimizer]:
        raise NotImplementedError


OPTIMIZERS: Registry[OptimizerSpec] = Registry("optimizer", "dpo_lab.training.optim")


@OPTIMIZERS.register
@dataclass
class AdamWSpec(OptimizerSpec):
    """Adam with decoupled weight decay, in its fused form. Loshchilov and Hutter 2019, arXiv:1711.05101."""

    name: str = "adamw"
    lr: float = 3e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(lr=self.lr, eps=self.eps, weight_decay=self.weight_decay)
        _check_betas("betas", self.betas)

    def build(self, model: nn.Module) -> list[Optimizer]:
        return [_adamw(_trained(model), self.lr, self.betas, self.eps, self.weight_decay)]


class MuonScaling(Enum):
    """What the learning rate of an (a, b) matrix is multiplied by; its update is orthogonal before that.

    original: sqrt(max(1, a / b)), Jordan et al. 2024. match_rms_adamw: .2 sqrt(max(a, b)), for which AdamW's learning rate and
    weight decay serve, Liu et al. 2025 (Moonlight), arXiv:2502.16982. The names are torch's.
    """

    original = "original"
    match_rms_adamw = "match_rms_adamw"


@OPTIMIZERS.register
@dataclass
class MuonSpec(OptimizerSpec):
    """Muon for the matrices between embedding and head, AdamW for everything else.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, their scaling included. The model names its matrices:
    `model.hidden_matrices()`.
    """

    name: str = "muon"
    lr: float = 0.02
    """Of the matrices. With scaling=match_rms_adamw that of an AdamW, some 10 to 100 times less."""
    scaling: MuonScaling = MuonScaling.original
    momentum: float = 0.95
    weight_decay: float = 0.0
    adamw_lr: float = 3e-3
    adamw_betas: list[float] = field(default_factory=lambda: [0.9, 0.95])

    def __post_init__(self) -> None:
        _check(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, adamw_lr=self.adamw_lr)
        _check_betas("adamw_betas", self.adamw_betas)

    def build(self, model: nn.Module) -> list[Optimizer]:
        if not isinstance(model, NamesMatrices):
            raise ValueError(f"optimizer=muon: {type(model).__name__} does not name its hidden matrices; use optimizer=adamw")
        matrices = model.hidden_matrices()
        taken = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in _trained(model) if id(parameter) not in taken]
        muon = Muon(
            matrices,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            adjust_lr_fn=self.scaling.value,
        )
        return [muon, _adamw(others, self.adamw_lr, self.adamw_betas, 1e-8, self.weight_decay)]


@OPTIMIZERS.register
@dataclass
class SGDSpec(OptimizerSpec):
    """Stochastic gradient descent."""

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _check(lr=self.lr, momentum=self.momentum)

    def build(self, model: nn.Module) -> list[Optimizer]:
        return [SGD(_trained(model), lr=self.lr, momentum=self.momentum)]


def _check(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"optimizer.{name} must be a number >= 0, got {value}")


def _check_betas(name: str, betas: list[float]) -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"optimizer.{name} must be two numbers in [0, 1), got {betas}")


def _trained(model: NamesMatrices | nn.Module) -> list[nn.Parameter]:
    """Under an adapter, the adapter's."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _adamw(parameters: list[nn.Parameter], lr: float, betas: list[float], eps: float, weight_decay: float) -> Optimizer:
    return AdamW(parameters, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=True)
