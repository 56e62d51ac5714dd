"""KTOTrainer of TRL 1.16.0 on unpaired feedback: both its loss types, its baseline and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from against_trl.comparing import CLOSE, Found, batch_of, candidates, logps_of, metrics_of, ours, pairs, theirs
from against_trl.tiny import ROWS, build, old_names, pair_of_models
from torch import Tensor
from trl import KTOConfig, KTOTrainer

from dpo_lab.losses import LOSSES
from dpo_lab.records import CandidateBatch

pytestmark = old_names

UNPAIRED = [
    {"prompt": "the cat", "completion": " sat on the mat", "label": True},
    {"prompt": "a small red bird", "completion": " sang", "label": False},
    {"prompt": "the", "completion": " dog ran home", "label": True},
    {"prompt": "a slow old dog and a fast cat", "completion": " ran and ran again", "label": True},
    {"prompt": "then the bird", "completion": "<eos>", "label": False},
    {"prompt": "the tree", "completion": " flew over the old tree and then home", "label": True},
]
LOGGED = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")


def trainer_with(path: Path, rows: Sequence[dict[str, Any]] = UNPAIRED, turned: bool = False, **options: Any) -> KTOTrainer:
    """`turned`: policy and reference change places, and log-ratios their sign."""
    models = pair_of_models()
    if turned:
        models = {"model": models["ref_model"], "ref_model": models["model"]}
    return build(KTOTrainer, KTOConfig, path, models, rows, **options)


def completions(inputs: dict[str, Tensor]) -> CandidateBatch:
    def of(prefix: str, **known: Any) -> CandidateBatch:
        tokens, present, scored = (inputs[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask"))
        return candidates(tokens, present, scored, k=1, **known)

    mismatched = of("KL_") if "KL_input_ids" in inputs else None
    return of("", desirable=inputs["label"][None].bool(), mismatched=mismatched)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("options", [{}, {"beta": 1.0}, {"desirable_weight": 0.5, "undesirable_weight": 2.0}])
def test_kto_is_ours(tmp_path: Path, options: dict[str, float], turned: bool) -> None:
    """On the same mismatched completions: TRL gives each prompt the completion before its own, ours is the one after."""
    trainer = trainer_with(tmp_path, turned=turned, **options)
    inputs, loss = batch_of(trainer), LOSSES["kto"](**options)
    batch = completions(inputs)
    here = ours(trainer, loss, batch, observed=True)
    assert here.is_close_to(theirs(trainer, inputs))
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    metrics = metrics_of(trainer, loss, batch)
    assert metrics["baseline"] == pytest.approx(logged["kl"], rel=CLOSE)
    for name in LOGGED:
        assert metrics[name] == pytest.approx(logged[name], rel=CLOSE, abs=CLOSE), name


def test_one_of_the_two_has_a_baseline_above_0(tmp_path: Path) -> None:
    """So that the tests above compare it clamped and not clamped."""
    found = []
    for turned in (False, True):
        trainer = trainer_with(tmp_path, turned=turned)
        theirs(trainer, batch_of(trainer))
        found.append(trainer._metrics["train"]["kl"][-1])
    assert min(found) == 0.0 < 0.01 < max(found)


@pytest.mark.parametrize("label", [True, False])
def test_kto_of_one_kind_of_feedback_is_ours(tmp_path: Path, label: bool) -> None:
    trainer = trainer_with(tmp_path, [row for row in UNPAIRED if row["label"] is label])
    inputs = batch_of(trainer)
    assert ours(trainer, LOSSES["kto"](), completions(inputs), observed=True).is_close_to(theirs(trainer, inputs))


def test_a_baseline_is_of_a_micro_batch_there_and_of_the_whole_step_here(tmp_path: Path) -> None:
    """Ours does not depend on how a step is cut. TRL's, of two micro-batches of three, is two baselines."""
    trainer = trainer_with(tmp_path, per_device_train_batch_size=3, beta=1.0)
    parts = list(trainer.get_train_dataloader())
    found = 0.5 * theirs(trainer, parts[0]) + 0.5 * theirs(trainer, parts[1])
    separate = [ours(trainer, LOSSES["kto"](beta=1.0), completions(part), observed=True) for part in parts]
    assert (0.5 * separate[0] + 0.5 * separate[1]).is_close_to(found)
    baselines = trainer._metrics["train"]["kl"][-2:]

    loss = LOSSES["kto"](beta=1.0)
    logps = [logps_of(trainer, loss, completions(part)) for part in parts]
    mismatched = torch.cat([of.mismatched.logratios().flatten() for of in logps if of.mismatched is not None])
    state = {"baseline": max(0.0, mismatched.mean().item())}
    values = torch.cat([loss(of, completions(part), state) for of, part in zip(logps, parts, strict=True)])
    assert baselines[0] != pytest.approx(baselines[1], rel=0.1)
    assert not Found.of(values.mean(), trainer.model).is_close_to(found)


def test_apo_zero_of_single_completions_is_half_of_ours_of_pairs(tmp_path: Path) -> None:
    """A mean over 2b completions there, over b pairs of a sum of two here, as in the paper's eq. 7."""
    trainer = trainer_with(tmp_path, ROWS, loss_type="apo_zero_unpaired", per_device_train_batch_size=2 * len(ROWS))
    inputs = batch_of(trainer)
    assert inputs["label"].tolist() == [True] * len(ROWS) + [False] * len(ROWS)
    assert (0.5 * ours(trainer, LOSSES["apo_zero"](), pairs(inputs))).is_close_to(theirs(trainer, inputs))
