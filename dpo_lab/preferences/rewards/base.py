"""Rewards: what says how good a text is."""

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
    """The reward of each text; higher is better, 0 is the line between bad and good."""

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, " n"]: ...


@dataclass
class RewardSpec:
    """How a scorer comes to be. A fitted one exists twice, from two halves of the labelled documents.

    One labels the candidates (the training scorer, a proxy), the other judges the result (the gold scorer).
    """

    name: str

    needs_labels: ClassVar[bool] = False

    def fingerprint(self) -> dict[str, Any]:
        """Whatever determines the reward beside settings and code: digests of the files that it reads."""
        return {}

    def fit(self, labelled: Sequence[tuple[str, bool]], directory: Path) -> None:
        """Write to `directory` whatever `load` needs."""

    def load(self, directory: Path) -> Scorer | None:
        """The scorer that `fit` wrote to `directory`; None for the choice of having none."""
        raise NotImplementedError


REWARDS: Registry[RewardSpec] = Registry("reward", "dpo_lab.preferences.rewards")
