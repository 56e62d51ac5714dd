"""What a law is, and how its check asks a loss for values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy
from jaxtyping import Float
from torch import Tensor

from dpo_lab.check.strategies import Drawn, Loss, cases
from dpo_lab.losses.base import PreferenceLoss, State
from dpo_lab.records import CandidateBatch, Logps

EXACT = 1e-9  # relative and absolute: float64, values up to some hundreds, dozens of operations

Check = Callable[[PreferenceLoss, Logps, CandidateBatch], None]


@dataclass(frozen=True)
class Law:
    """A truth about losses: `check` raises AssertionError, with the values, where (loss, logps, batch) breaks it."""

    name: str
    sentence: str
    check: Check
    drawn: Callable[[Loss], SearchStrategy[Drawn]]
    """What it is tested on."""
    candidates: tuple[int, ...] = (1, 2, 3)
    """The numbers of candidates to test with, of those that the loss takes."""


def law(
    drawn: Callable[..., SearchStrategy[Drawn]] = cases, k: tuple[int, ...] = (1, 2, 3), **limits: Any
) -> Callable[[Check], Law]:
    """Decorator: the function's name and docstring are the law's."""

    def named(check: Check) -> Law:
        sentence = " ".join((check.__doc__ or "").split())
        return Law(check.__name__, sentence, check, lambda loss_class: drawn(loss_class, k=k, **limits), k)

    return named


@dataclass
class Prepared:
    """A loss that has seen the step, where its values depend on that."""

    loss: PreferenceLoss
    state: State

    def __call__(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        return self.loss(logps, batch, self.state)

    def rewards(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        return self.loss.rewards(logps, batch, self.state)


def prepared(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> Prepared:
    """The loss in a first step that consists of this batch."""
    state = loss.initial_state()
    return Prepared(loss, loss.observe(logps, batch, state) if loss.couples_batch else state)


def values(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
    """The loss of each prompt in a step that consists of this batch."""
    return prepared(loss, logps, batch)(logps, batch)


def judged(loss: PreferenceLoss, values: Float[Tensor, " b"]) -> Float[Tensor, " n"]:
    """What a law about single values is about: each prompt's value, or their sum where the prompts share one."""
    return values if loss.laws.rowwise else values.sum(dim=0, keepdim=True)


def same(actual: Float[Tensor, "*s"], expected: Float[Tensor, "*s"], what: str, tolerance: float = EXACT) -> None:
    """Raises AssertionError with both numbers where they differ most."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    excess = (actual - expected).abs() - tolerance * (1 + expected.abs())
    wrong = (excess > 0) | ~excess.isfinite()
    equal = (actual == expected) | (actual.isnan() & expected.isnan())
    if bool((wrong & ~equal).any()):
        at = int(torch.where(wrong & ~equal, excess.nan_to_num(torch.inf, torch.inf), -torch.inf).argmax())
        raise AssertionError(f"{what}: {actual.flatten()[at]:.9g}, expected {expected.flatten()[at]:.9g}")
