"""Muon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

from torch import nn
from torch.optim import Muon, Optimizer

from dpo_lab.training.optimizers.adamw import AdamWSpec
from dpo_lab.training.optimizers.base import (
    OPTIMIZERS,
    OptimizerSpec,
    check_betas,
    check_not_negative,
    trained_parameters,
)


@runtime_checkable
class NamesMatrices(Protocol):
    """A model that says which of its parameters are weight matrices between embedding and head."""

    def hidden_matrices(self) -> list[nn.Parameter]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


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
    """Muon for the matrices between embedding and head, AdamW for everything else: fits small models from scratch faster.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, their scaling included. The model names its matrices:
    `model.hidden_matrices()`.
    """

    name: str = "muon"
    lr: float = 0.02
    """Learning rate of the matrices. With scaling=match_rms_adamw that of an AdamW, some 10 to 100 times less."""
    scaling: MuonScaling = MuonScaling.original
    """What the orthogonal update of a matrix is multiplied by."""
    momentum: float = 0.95
    """Momentum of the gradients of matrices."""
    weight_decay: float = 0.0
    """Decoupled: each step shrinks a weight by lr * weight_decay of itself."""
    adamw_lr: float = 3e-3
    """Learning rate of everything else (embeddings, head, norms), which AdamW trains."""
    adamw_betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Decay rates of that AdamW."""

    def __post_init__(self) -> None:
        check_not_negative(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, adamw_lr=self.adamw_lr)
        check_betas("adamw_betas", self.adamw_betas)

    def build(self, model: nn.Module) -> list[Optimizer]:
        if not isinstance(model, NamesMatrices):
            raise ValueError(f"optimizer=muon: {type(model).__name__} does not name its hidden matrices; use optimizer=adamw")
        matrices = model.hidden_matrices()
        in_matrices = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in trained_parameters(model) if id(parameter) not in in_matrices]
        muon = Muon(
            matrices,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            adjust_lr_fn=self.scaling.value,
        )
        return [muon, AdamWSpec(lr=self.adamw_lr, betas=self.adamw_betas, weight_decay=self.weight_decay).on(others)]
