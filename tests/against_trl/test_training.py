"""Ten optimiser steps of DPOTrainer.train() beside ours: the same trajectory of policy, reference and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from against_trl.comparing import CLOSE, Logits, pairs
from against_trl.tiny import ROWS, build, llama, old_names, pair_of_models
from torch import Tensor, nn
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.experimental.bema_for_ref_model import BEMACallback
from trl.experimental.bema_for_ref_model import DPOTrainer as DPOTrainerWithBEMA

from dpo_lab.compute import Compute
from dpo_lab.losses import LOSSES
from dpo_lab.optim import OPTIMIZERS, SCHEDULES
from dpo_lab.records import CandidateBatch
from dpo_lab.references import REFERENCES, Reference, ReferenceSpec
from dpo_lab.trainer import Hooks, Trainer
from dpo_lab.trainer_settings import TrainerSettings

pytestmark = old_names

STEPS, BATCH, LR, BETA = 10, 2, 1e-3, 0.5
SHARED = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")

# Ten steps of Adam, which divides by gradients that may be near 0, let roundings of 1e-8 grow to 1e-7. A step is 1e-3, and a
# mixup of .61 for .6 shows itself as 1e-4.
ATOL = 1e-6


class Watch(TrainerCallback):
    """Keeps a copy of the policy's weights after every step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_step_end(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
        self.weights.append(flat(model))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def four_pairs(path: Path, trainer: type[DPOTrainer] = DPOTrainer, **options: Any) -> DPOTrainer:
    """Set up for ten steps of two pairs, in the order of the rows."""
    defaults: dict[str, Any] = {
        "models": pair_of_models(),
        "rows": ROWS[:4],
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "logging_steps": 1,
        "beta": BETA,
    }
    return build(trainer, DPOConfig, path, **{**defaults, **options})


def everything(trainer: DPOTrainer) -> CandidateBatch:
    inputs = trainer.data_collator(list(trainer.train_dataset))
    return pairs(inputs)


def train_here(
    data: CandidateBatch, models: Mapping[str, nn.Module], spec: ReferenceSpec, starts_at_reference: bool
) -> tuple[nn.Module, nn.Module, list[Mapping[str, float]], list[Tensor]]:
    """Our trainer with the same settings: the policy, the reference, the metrics and the weights of every step."""
    policy, reference = Logits(models["model"]), Logits(models["ref_model"])
    logged: list[Mapping[str, float]] = []
    weights: list[Tensor] = []

    def log(step: int, metrics: Mapping[str, float]) -> None:
        logged.append(dict(metrics))
        weights.append(flat(policy))

    Trainer(
        policy=policy,
        loss=LOSSES["dpo"](beta=BETA),
        reference=Reference(spec, reference),
        data=data,
        optimizers=OPTIMIZERS["adamw"](lr=LR).build(policy),
        schedule=SCHEDULES["constant"](),
        settings=TrainerSettings(batch_size=BATCH, max_steps=STEPS, clip=1.0, log_every=1),
        compute=Compute(device="cpu"),
        seed=0,
        hooks=Hooks(log=log),
        rows=lambda step: (BATCH * step + torch.arange(BATCH)) % len(data),
        starts_at_reference=starts_at_reference,
    ).fit()
    return policy, reference, logged, weights


def test_ten_steps_are_ours(tmp_path: Path) -> None:
    watch = Watch()
    trainer = four_pairs(tmp_path, callbacks=[watch])
    trainer.train()
    policy, _, logged, weights = train_here(
        everything(trainer), pair_of_models(), REFERENCES["frozen"](), starts_at_reference=False
    )
    assert len(weights) == len(watch.weights) == STEPS
    for here, there in zip(weights, watch.weights, strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=ATOL)
    assert (flat(policy) - flat(llama())).abs().max() > 1000 * ATOL
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    for here, there in zip(logged, steps, strict=True):
        for name in ("loss", "grad_norm", *SHARED):
            assert here[name] == pytest.approx(there[name], rel=CLOSE), name


def start_alike() -> dict[str, nn.Module]:
    return {"model": llama(), "ref_model": llama()}


@pytest.mark.parametrize("mixup", [0.6, 1.0])
def test_a_synced_reference_is_ours(tmp_path: Path, mixup: float) -> None:
    trainer = four_pairs(
        tmp_path, models=start_alike(), sync_ref_model=True, ref_model_sync_steps=3, ref_model_mixup_alpha=mixup
    )
    trainer.train()
    spec = REFERENCES["synced"](sync_every=3, mixup=mixup)
    policy, reference, *_ = train_here(everything(trainer), start_alike(), spec, starts_at_reference=True)
    assert_followed(trainer, policy, reference)


@pytest.mark.parametrize(("bias_power", "correct_bias"), [(0.2, True), (0.5, True), (64.0, False)])
def test_a_bema_reference_is_ours(tmp_path: Path, bias_power: float, correct_bias: bool) -> None:
    """TRL has no switch for the correction: a power of 64 makes it (10 + t)^-64."""
    follow = BEMACallback(update_freq=2, ref_model_update_freq=2, update_ref_model=True, bias_power=bias_power)
    trainer = four_pairs(tmp_path, DPOTrainerWithBEMA, models=start_alike(), callbacks=[follow])
    trainer.train()
    spec = REFERENCES["ema"](update_every=2, bias_power=bias_power, correct_bias=correct_bias)
    policy, reference, *_ = train_here(everything(trainer), start_alike(), spec, starts_at_reference=True)
    assert_followed(trainer, policy, reference)


def assert_followed(trainer: DPOTrainer, policy: nn.Module, reference: nn.Module) -> None:
    torch.testing.assert_close(flat(policy), flat(trainer.model), rtol=0, atol=ATOL)
    torch.testing.assert_close(flat(reference), flat(trainer.ref_model), rtol=0, atol=ATOL)
    assert (flat(reference) - flat(llama())).abs().max() > 1000 * ATOL
