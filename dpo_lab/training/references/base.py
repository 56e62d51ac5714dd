"""What a reference is: the settings of one kind, and a reference at work with its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpo_lab.artifacts.store import Store
from dpo_lab.records import CandidateBatch
from dpo_lab.registry import Registry
from dpo_lab.scoring.logps import Scoring, score


@dataclass
class ReferenceSpec:
    """The settings of a kind of reference, and how it gives the reference's log-probabilities.

    Most kinds run a model on every batch, and derive from LiveReference.
    """

    name: str

    has_logps: ClassVar[bool] = True
    """False: there is nothing that the policy could be compared with."""
    runs_model: ClassVar[bool] = True
    """Whole next-token distributions can be had, not just the log-probabilities of given tokens."""
    moves: ClassVar[bool] = False
    """Its weights change while the policy trains."""

    def prepare(
        self, model: nn.Module, data: CandidateBatch, key: str, store: Store, scoring: Scoring | None = None
    ) -> CandidateBatch:
        """The data, with whatever can be computed once before training.

        `key` stands for the model's weights in the store.
        """
        return data

    def score(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring | None = None) -> Float[Tensor, "k b m"] | None:
        """The reference's log-probabilities of a batch, without gradients; None where there is no reference."""
        raise NotImplementedError

    def unprepared(self) -> ReferenceSpec:
        """The same reference for data that has not been prepared."""
        return self

    def weights(self) -> Path | None:
        """The directory of another policy that is the reference; None: the reference is the policy as it is at the start."""
        return None

    def follow(self, model: nn.Module, policy: nn.Module, step: int, memory: dict[str, Tensor]) -> None:
        """Move the reference's weights after an optimiser step (the first is 1). `memory` is kept from call to call."""

    def warnings(self, num_steps: int) -> list[str]:
        """What to warn a user of, in a run of `num_steps` steps."""
        return []


REFERENCES: Registry[ReferenceSpec] = Registry("reference", "dpo_lab.training.references")


@dataclass
class Reference:
    """A reference at work: its settings with a model. Calling it scores a batch."""

    spec: ReferenceSpec
    model: nn.Module
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What a moving reference keeps beside its weights."""
    scoring: Scoring | None = None

    def __call__(self, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        return self.spec.score(self.model, batch, self.scoring)

    @torch.no_grad()
    def follow(self, policy: nn.Module, step: int) -> None:
        """To be called after every optimiser step."""
        self.spec.follow(self.model, policy, step, self.memory)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of it: nothing, if it never moves."""
        if not self.spec.moves:
            return {}
        weights = {f"model.{name}": tensor.detach() for name, tensor in self.model.state_dict().items()}
        return weights | {f"memory.{name}": tensor for name, tensor in self.memory.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        if not state:
            return
        device = next(self.model.parameters()).device
        parts = {name.partition("."): tensor.to(device) for name, tensor in state.items()}
        self.model.load_state_dict({name: tensor for (kind, _, name), tensor in parts.items() if kind == "model"})
        self.memory = {name: tensor for (kind, _, name), tensor in parts.items() if kind == "memory"}


@dataclass
class LiveReference(ReferenceSpec):
    """A model that is run beside the policy on every batch."""

    @torch.no_grad()
    def score(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring | None = None) -> Float[Tensor, "k b m"] | None:
        return score(model, batch, scoring)


def existing_directory(path: str) -> Path | None:
    """The directory that reference.path names; None for "". Raises ValueError where there is none."""
    if path and not Path(path).expanduser().is_dir():
        raise ValueError(f"reference.path: there is no directory {path}")
    return Path(path).expanduser() if path else None


def never_moves(setting: str, every: int, num_steps: int) -> list[str]:
    """A warning if a reference that moves every few steps does not move in the whole run."""
    if every <= num_steps:
        return []
    return [f"reference.{setting}={every} exceeds the {num_steps} steps of the run: the reference never moves"]
