"""Contenders ready for their first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from dpo_lab.models.base import ModelSpec
from dpo_lab.seeding import seed_torch
from dpo_lab.training.compute import Compute
from dpo_lab.training.settings import TrainerSettings
from experiments.throughput.benchmark.base import CONTENDERS, Setting, Step
from experiments.throughput.benchmark.cases import Case


@dataclass
class Terms:
    """The settings that all cases share."""

    spec: ModelSpec
    compute: Compute
    beta: float
    trainer: TrainerSettings
    """Its micro-batch settings are used."""
    seed: int


@dataclass
class Prepared:
    """A step, and what it trains."""

    step: Step
    model: nn.Module
    setting: Setting


def prepared(terms: Terms, name: str, case: Case) -> Prepared:
    """The contender with the same weights (where it has the same model) and the same batch as every other."""
    room: dict[str, Any] = {"context": case.context}
    spec = replace(terms.spec, **room)
    seed_torch(terms.seed, "weights to time")
    device = terms.compute.torch_device
    with device:  # a large model's weights are drawn faster there
        policy = spec.build(case.vocab)
    batch = case.draw(terms.seed).to(device)
    setting = Setting(spec, case.vocab, policy, batch, terms.compute, terms.beta, terms.trainer)
    contender = CONTENDERS[name](name=name)
    step = contender.prepare(setting)
    return Prepared(step, contender.model(setting), setting)
