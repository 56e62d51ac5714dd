"""What is measured: ways to compute the gradient of DPO's loss on one batch of pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from dpo_lab.models.base import ModelSpec
from dpo_lab.records import CandidateBatch
from dpo_lab.registry import Registry
from dpo_lab.training.compute import Compute
from dpo_lab.training.settings import TrainerSettings

Step = Callable[[], object]
"""Adds the gradient of the mean loss over the batch to the policy's; what it returns nobody looks at."""


@dataclass
class Setting:
    """The same for all contenders."""

    spec: ModelSpec
    vocab_size: int
    policy: nn.Module
    """The contender's own, to be trained; its reference is to have the same weights."""
    batch: CandidateBatch
    """On the device. Prompts and completions have no padding but at their end."""
    compute: Compute
    beta: float
    trainer: TrainerSettings
    """Of which micro-batches are taken."""


@dataclass
class Contender:
    """One way to take a training step."""

    name: str

    def prepare(self, setting: Setting) -> Step:
        """Everything that is done once a training, and the step itself."""
        raise NotImplementedError

    def model(self, setting: Setting) -> nn.Module:
        """What is trained, whose gradients are to be cleared between steps."""
        return setting.policy


CONTENDERS: Registry[Contender] = Registry("contender", "experiments.throughput.benchmark")
