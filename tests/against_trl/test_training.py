"""Ten steps of TRL's trainers beside ours, on a Hugging Face model: the same trajectory of policy, reference and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from against_trl.comparing import CLOSE, pairs
from against_trl.test_kto_trainer import UNPAIRED, completions
from against_trl.tiny import ROWS, build, llama, old_names, pair_of_models
from torch import Tensor, nn
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.bema_for_ref_model import BEMACallback
from trl.experimental.bema_for_ref_model import DPOTrainer as DPOTrainerWithBEMA

from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.models.hugging_face.causal_lm import wrap_network
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import ALL_LAYOUTS, Layout
from dpo_lab.scoring.logps import Scoring
from dpo_lab.training.compute import Compute
from dpo_lab.training.optimizers import OPTIMIZERS
from dpo_lab.training.references import REFERENCES, Reference, ReferenceSpec
from dpo_lab.training.schedules import SCHEDULES
from dpo_lab.training.settings import TrainerSettings
from dpo_lab.training.trainer import Hooks, Trainer

pytestmark = old_names

STEPS, BATCH, LR, BETA = 10, 2, 1e-3, 0.5
SHARED = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")

# Ten steps of Adam, which divides by gradients that may be near 0, let roundings of 1e-8 grow to 1e-7. A step is 1e-3, and a
# mixup of .61 for .6 shows itself as 1e-4.
ATOL = 1e-6


STEPPING: dict[str, Any] = {
    "max_steps": STEPS,
    "learning_rate": LR,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "logging_steps": 1,
    "beta": BETA,
}


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
    defaults = {"models": pair_of_models(), "rows": ROWS[:4], "per_device_train_batch_size": BATCH}
    return build(trainer, DPOConfig, path, **{**defaults, **STEPPING, **options})


def everything(trainer: DPOTrainer) -> CandidateBatch:
    inputs = trainer.data_collator(list(trainer.train_dataset))
    return pairs(inputs)


def train_here(
    data: CandidateBatch,
    models: Mapping[str, nn.Module],
    spec: ReferenceSpec,
    starts_at_reference: bool,
    loss: PreferenceLoss | None = None,
    batch: int = BATCH,
    layouts: Sequence[Layout] = ALL_LAYOUTS,
) -> tuple[nn.Module, nn.Module, list[Mapping[str, float]], list[Tensor]]:
    """Our trainer with the same settings: the policy, the reference, the metrics and the weights of every step."""
    policy, reference = wrap_network(models["model"]), wrap_network(models["ref_model"])
    logged: list[Mapping[str, float]] = []
    weights: list[Tensor] = []

    def log(step: int, metrics: Mapping[str, float]) -> None:
        logged.append(dict(metrics))
        weights.append(flat(policy))

    Trainer(
        policy=policy,
        loss=loss or LOSSES["dpo"](beta=BETA),
        reference=Reference(spec, reference, scoring=Scoring(layouts)),
        data=data,
        optimizers=OPTIMIZERS["adamw"](lr=LR).build(policy),
        schedule=SCHEDULES["constant"](),
        settings=TrainerSettings(batch_size=batch, max_steps=STEPS, clip=1.0, log_every=1),
        compute=Compute(device="cpu"),
        seed=0,
        hooks=Hooks(log=log),
        rows=lambda step: (batch * step + torch.arange(batch)) % len(data),
        scoring=Scoring(layouts),
        starts_at_reference=starts_at_reference,
    ).fit()
    return policy, reference, logged, weights


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
@pytest.mark.parametrize(("loss_type", "name"), [("sigmoid", "dpo"), ("ipo", "ipo")])
def test_ten_steps_are_ours(tmp_path: Path, loss_type: str, name: str, layout: Layout) -> None:
    watch = Watch()
    trainer = four_pairs(tmp_path, callbacks=[watch], loss_type=[loss_type])
    trainer.train()
    policy, _, logged, weights = train_here(
        everything(trainer), pair_of_models(), REFERENCES["frozen"](), False, LOSSES[name](beta=BETA), layouts=[layout]
    )
    assert_same_steps(trainer, watch, policy, logged, weights)
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    # The rewards of ipo are of sums there and of means here.
    shared = SHARED if name == "dpo" else ("rewards/accuracies", "logps/chosen", "logps/rejected")
    for here, there in zip(logged, steps, strict=True):
        for metric in ("loss", "grad_norm", *shared):
            # ipo's loss is a square that becomes small: what it is a square of has fewer digits.
            least = 1e-6 if (name, metric) == ("ipo", "loss") else None
            assert here[metric] == pytest.approx(there[metric], rel=CLOSE, abs=least), metric


def test_ten_steps_of_kto_are_ours(tmp_path: Path) -> None:
    """On the mismatched completions that TRL makes, the whole data in each step."""
    watch, options = Watch(), {**STEPPING, "per_device_train_batch_size": len(UNPAIRED)}
    trainer = build(KTOTrainer, KTOConfig, tmp_path, pair_of_models(), UNPAIRED, [watch], **options)
    data = completions(trainer.data_collator(list(trainer.train_dataset)))
    trainer.train()
    policy, _, logged, weights = train_here(
        data, pair_of_models(), REFERENCES["frozen"](), False, LOSSES["kto"](beta=BETA), len(UNPAIRED)
    )
    assert_same_steps(trainer, watch, policy, logged, weights)
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    for here, there in zip(logged, steps, strict=True):
        for metric in ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins"):
            assert here[metric] == pytest.approx(there[metric], rel=CLOSE, abs=1e-6), metric


def assert_same_steps(
    trainer: Any, watch: Watch, policy: nn.Module, logged: list[Mapping[str, float]], weights: list[Tensor]
) -> None:
    assert len(logged) == len(weights) == len(watch.weights) == STEPS
    for here, there in zip(weights, watch.weights, strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=ATOL)
    assert (flat(policy) - flat(llama())).abs().max() > 1000 * ATOL


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
