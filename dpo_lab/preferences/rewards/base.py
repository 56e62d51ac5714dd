"""Reward functions: how good a text is, as a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from dpo_lab.registry import Registry


@runtime_checkable  # for the tests, which check annotations as they run
class Scorer(Protocol):
    """A reward function of texts; higher is better, and positive counts as good."""

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, " n"]: ...


@dataclass
class RewardSpec:
    """A reward. A fitted one exists twice, fitted on two halves of the labelled documents.

    The proxy labels the candidates that are trained on; the gold reward evaluates the trained policy.
    """

    name: str

    has_scores: ClassVar[bool] = True
    """False: there is no reward."""
    needs_labels: ClassVar[bool] = False
    """Whether it is fitted on labelled documents."""

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the files that it reads: with settings and code they determine the reward."""
        return {}

    def fit(self, labelled: Sequence[tuple[str, bool]], directory: Path) -> None:
        """Fit it, and write to `directory` what `load` reads."""

    def load(self, directory: Path) -> Scorer | None:
        """The reward function, from what `fit` wrote to `directory`; None where there is to be no reward."""
        raise NotImplementedError


REWARDS: Registry[RewardSpec] = Registry("reward", "dpo_lab.preferences.rewards")
