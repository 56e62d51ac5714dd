"""DPOTrainer of TRL 1.16.0 on the same tokens and weights: the same loss and gradient, or a difference that is stated.

TRL 1.16.0 has no RPO term (`rpo_alpha`) any more; a mix of sigmoid and sft stands for it there, and is tested in test_mixes.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from against_trl.comparing import CLOSE, batch_of, logps_of, metrics_of, ours, pairs, theirs
from against_trl.tiny import build, dpo_trainer, llama, old_names
from trl import DPOConfig, DPOTrainer

from dpo_lab.losses import LOSSES
from dpo_lab.records import Aggregate

pytestmark = old_names


SAME: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("sigmoid", {}, "dpo", {}),
    ("sigmoid_norm", {"beta": 2.0}, "dpo", {"beta": 2.0, "aggregate": Aggregate.mean}),
    ("hinge", {"beta": 0.5}, "hinge", {"beta": 0.5}),
    ("ipo", {}, "ipo", {}),
    ("exo_pair", {"label_smoothing": 1e-3}, "exo", {}),
    ("nca_pair", {}, "nca", {}),
    ("robust", {"label_smoothing": 0.2}, "robust", {"epsilon": 0.2}),
    ("sppo_hard", {}, "sppo", {}),
    ("aot_unpaired", {}, "aot_unpaired", {}),
    ("aot_unpaired", {"label_smoothing": 0.2}, "aot_unpaired", {"label_smoothing": 0.2}),
    ("apo_zero", {}, "apo_zero", {}),
    ("apo_down", {}, "apo_down", {}),
    ("discopop", {}, "discopop", {}),
    ("discopop", {"discopop_tau": 0.5, "beta": 1.0}, "discopop", {"tau": 0.5, "beta": 1.0}),
    ("bco_pair", {}, "bco", {}),  # before ours has seen a batch
]


@pytest.mark.parametrize(("loss_type", "options", "name", "settings"), SAME)
def test_a_loss_type_is_our_loss(
    tmp_path: Path, loss_type: str, options: dict[str, Any], name: str, settings: dict[str, Any]
) -> None:
    trainer = dpo_trainer(tmp_path, loss_type=[loss_type], **options)
    inputs = batch_of(trainer)
    assert ours(trainer, LOSSES[name](**settings), pairs(inputs)).is_close_to(theirs(trainer, inputs))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_aot_is_ours(tmp_path: Path, smoothing: float) -> None:
    """On completions of like length: else that alone ranks the gaps, under the policy as under the reference."""
    rows = [{"prompt": "the", "chosen": f" {word} sat", "rejected": f" {word} ran"} for word in ("cat", "dog", "bird", "log")]
    models = {"model": llama(), "ref_model": llama(1)}
    trainer = build(DPOTrainer, DPOConfig, tmp_path, models, rows, loss_type=["aot"], label_smoothing=smoothing, beta=0.5)
    inputs, loss = batch_of(trainer), LOSSES["aot"](label_smoothing=smoothing, beta=0.5)
    logps = logps_of(trainer, loss, pairs(inputs))
    ranks = [(chosen - rejected).argsort().tolist() for chosen, rejected in (logps.policy_logps(), logps.reference_logps())]
    assert ranks[0] != ranks[1]
    assert ours(trainer, loss, pairs(inputs)).is_close_to(theirs(trainer, inputs))


def test_bco_has_no_moving_baseline_there(tmp_path: Path) -> None:
    """TRL 1.16.0 has no BCOTrainer any more, and `bco_pair` leaves the paper's delta out. We follow the paper."""
    trainer = dpo_trainer(tmp_path, loss_type=["bco_pair"], beta=1.0)
    inputs, loss = batch_of(trainer), LOSSES["bco"](beta=1.0)
    logps = logps_of(trainer, loss, pairs(inputs))
    state = loss.observe(logps, pairs(inputs), loss.initial_state())
    chosen, rejected = logps.logratios().detach()
    assert loss.baseline(state) == pytest.approx((chosen.mean() + rejected.mean()).item() / 2, rel=CLOSE)
    assert not ours(trainer, loss, pairs(inputs), observed=True).is_close_to(theirs(trainer, inputs))


def test_sft_is_a_mean_over_tokens_there_and_over_completions_here(tmp_path: Path) -> None:
    """A short completion counts as much as a long one here, as in every other loss: then no value depends on the batch."""
    trainer = dpo_trainer(tmp_path, loss_type=["sft"])
    inputs = batch_of(trainer)
    batch, found = pairs(inputs), theirs(trainer, inputs)
    sums = ours(trainer, LOSSES["sft"](aggregate=Aggregate.sum), batch)
    assert (len(batch) / batch.mask[0].sum().item() * sums).is_close_to(found)
    means = ours(trainer, LOSSES["sft"](), batch)
    each = LOSSES["sft"](aggregate=Aggregate.sum)(logps_of(trainer, LOSSES["sft"](), batch), batch) / batch.mask[0].sum(dim=1)
    assert means.loss == pytest.approx(each.mean().item(), rel=CLOSE)
    assert not means.is_close_to(found)


def test_rewards_that_are_logged(tmp_path: Path) -> None:
    trainer = dpo_trainer(tmp_path, loss_type=["sigmoid"])
    inputs, loss = batch_of(trainer), LOSSES["dpo"]()
    theirs(trainer, inputs)
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    here = metrics_of(trainer, loss, pairs(inputs))
    for name in (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
    ):
        assert here[name] == pytest.approx(logged[name], rel=CLOSE), name


def test_rewards_of_a_loss_of_means_are_sums_there_and_means_here(tmp_path: Path) -> None:
    """Ours are the rewards that the loss compares, so that an accuracy says how many pairs the loss holds to be right."""
    trainer = dpo_trainer(tmp_path, loss_type=["sigmoid_norm"])
    inputs, loss = batch_of(trainer), LOSSES["dpo"](aggregate=Aggregate.mean)
    theirs(trainer, inputs)
    margin = trainer._metrics["train"]["rewards/margins"][-1]
    assert metrics_of(trainer, LOSSES["dpo"](), pairs(inputs))["rewards/margins"] == pytest.approx(margin, rel=CLOSE)
    assert metrics_of(trainer, loss, pairs(inputs))["rewards/margins"] != pytest.approx(margin, rel=0.1)


def test_a_tie_counts_nothing_there_and_one_half_here(tmp_path: Path) -> None:
    trainer = dpo_trainer(tmp_path)
    trainer.ref_model.load_state_dict(trainer.model.state_dict())
    inputs = batch_of(trainer)
    theirs(trainer, inputs)
    assert trainer._metrics["train"]["rewards/accuracies"][-1] == 0.0
    assert metrics_of(trainer, LOSSES["dpo"](), pairs(inputs))["rewards/accuracies"] == 0.5
