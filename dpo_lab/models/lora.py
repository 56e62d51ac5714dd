"""The settings of a low-rank adapter."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Lora:
    """Low-rank adapter: W + (alpha / rank) B A, only A and B are trained, B from 0. Hu et al. 2021, arXiv:2106.09685."""

    rank: int | None = None
    """Inner dimension of the adapter. None: no adapter, all weights are trained."""
    alpha: float | None = None
    """None: twice the rank."""
    dropout: float = 0.0
    """In front of A. Works with trainer.dropout=true."""
    targets: list[str] = field(default_factory=list)
    """Names of the linear maps that get an adapter, such as [q_proj, v_proj]. Empty: all between embedding and head."""
    seed: int = 0
    """Of A's initial values."""

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"model.lora.rank must be at least 1, got {self.rank}")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"model.lora.alpha must be > 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.lora.dropout must be in [0, 1), got {self.dropout}")
        if self.rank is None and (self.alpha, self.dropout, self.targets, self.seed) != (None, 0.0, [], 0):
            raise ValueError("model.lora has settings of an adapter, and there is none: set model.lora.rank")
