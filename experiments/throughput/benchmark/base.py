"""Contenders: ways to compute the gradient of DPO's loss on one batch of pairs, to be timed."""

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
"""Adds the gradient of the mean loss over the batch to the policy's gradients; its result is not used."""


@dataclass
class Setting:
    """What a contender computes with; the same for all of them."""

    spec: ModelSpec
    vocab_size: int
    policy: nn.Module
    """The contender's own copy, to be trained; its reference is to have the same weights."""
    batch: CandidateBatch
    """On the device. Prompts and completions have no padding but at their end."""
    compute: Compute
    beta: float
    trainer: TrainerSettings
    """Its micro-batch settings are used."""


@dataclass
class Contender:
    """One way to take a training step."""

    name: str

    def prepare(self, setting: Setting) -> Step:
        """Do what is done once per training, and return the step."""
        raise NotImplementedError

    def model(self, setting: Setting) -> nn.Module:
        """The model that is trained: its gradients are cleared between steps."""
        return setting.policy


CONTENDERS: Registry[Contender] = Registry("contender", "experiments.throughput.benchmark")
