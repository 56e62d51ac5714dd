"""Liger's chunked losses on the tokens of TRL's trainers, where Liger is installed: `pip install --no-deps liger-kernel`.

It is no part of the test extra, for it asks for Triton, which these losses do without on a CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from against_trl.comparing import Found, batch_of, ours, pairs
from against_trl.tiny import dpo_trainer, old_names
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from trl import DPOTrainer

from dpo_lab.losses import LOSSES
from dpo_lab.records import Aggregate

liger = pytest.importorskip("liger_kernel.chunked_loss")
pytestmark = old_names


@pytest.fixture
def trainer(tmp_path: Path) -> DPOTrainer:
    return dpo_trainer(tmp_path)


def theirs(trainer: DPOTrainer, inputs: dict[str, Tensor], loss: nn.Module, referenced: bool) -> Found:
    """Liger's loss from the hidden states and the head of the trainer's models."""

    def hidden(model: LlamaForCausalLM) -> Tensor:
        return model.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state[:, :-1]

    target = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)[:, 1:]
    given: dict[str, Any] = {}
    if referenced:
        given = {"ref_input": hidden(trainer.ref_model).detach(), "ref_weight": trainer.ref_model.lm_head.weight.detach()}
    value, _ = loss(trainer.model.lm_head.weight, hidden(trainer.model), target, **given)
    return Found.of(value, trainer.model)


OF_RATIOS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"loss_type": "sigmoid"}, "dpo", {}),
    ({"loss_type": "sigmoid", "average_log_prob": True, "beta": 2.0}, "dpo", {"aggregate": Aggregate.mean, "beta": 2.0}),
    ({"loss_type": "hinge", "beta": 0.5}, "hinge", {"beta": 0.5}),
    ({"loss_type": "exo_pair", "label_smoothing": 1e-3}, "exo", {}),
    ({"loss_type": "nca_pair"}, "nca", {}),
    ({"loss_type": "robust", "label_smoothing": 0.1}, "robust", {}),
    ({"loss_type": "bco_pair"}, "bco", {}),
    ({"loss_type": "sppo_hard"}, "sppo", {}),
    ({"loss_type": "apo_zero"}, "apo_zero", {}),
    ({"loss_type": "apo_down"}, "apo_down", {}),
    ({"loss_type": "discopop"}, "discopop", {}),
]


@pytest.mark.parametrize(("options", "name", "settings"), OF_RATIOS)
def test_a_loss_type_is_our_loss(trainer: DPOTrainer, options: dict[str, Any], name: str, settings: dict[str, Any]) -> None:
    inputs = batch_of(trainer)
    loss = liger.LigerFusedLinearDPOLoss(compiled=False, **options)
    assert ours(trainer, LOSSES[name](**settings), pairs(inputs)).is_close_to(theirs(trainer, inputs, loss, True))


def test_label_smoothing_of_sigmoid_is_ignored_there_too(trainer: DPOTrainer) -> None:
    inputs = batch_of(trainer)
    smooth = theirs(trainer, inputs, liger.LigerFusedLinearDPOLoss(compiled=False, label_smoothing=0.2), True)
    assert ours(trainer, LOSSES["dpo"](), pairs(inputs)).is_close_to(smooth)
    assert not ours(trainer, LOSSES["dpo"](label_smoothing=0.2), pairs(inputs)).is_close_to(smooth)


def test_simpo_is_ours(trainer: DPOTrainer) -> None:
    inputs = batch_of(trainer)
    loss = liger.LigerFusedLinearSimPOLoss(compiled=False, compute_nll_loss=False, beta=2.0, gamma=0.5)
    assert ours(trainer, LOSSES["simpo"](), pairs(inputs)).is_close_to(theirs(trainer, inputs, loss, False))


def test_orpo_without_its_nll_is_ours(trainer: DPOTrainer) -> None:
    inputs = batch_of(trainer)
    loss = liger.LigerFusedLinearORPOLoss(compiled=False, compute_nll_loss=False)
    assert ours(trainer, LOSSES["orpo"](nll=0.0), pairs(inputs)).is_close_to(theirs(trainer, inputs, loss, False))


@pytest.mark.parametrize(("average", "aggregate"), [(False, Aggregate.sum), (True, Aggregate.mean)])
def test_cpo_without_its_nll_is_ours(trainer: DPOTrainer, average: bool, aggregate: Aggregate) -> None:
    inputs = batch_of(trainer)
    loss = liger.LigerFusedLinearCPOLoss(compiled=False, compute_nll_loss=False, average_log_prob=average)
    here = ours(trainer, LOSSES["cpo"](nll=0.0, aggregate=aggregate), pairs(inputs))
    assert here.is_close_to(theirs(trainer, inputs, loss, False))
