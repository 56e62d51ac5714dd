"""Several loss types with weights in one DPOTrainer: our mix, and our `nll` option."""

from __future__ import annotations

from pathlib import Path

import pytest
from against_trl.comparing import batch_of, ours, pairs, theirs
from against_trl.tiny import EQUALLY_LONG, ROWS, dpo_trainer, old_names
from trl import DPOConfig

from dpo_lab.losses import LOSSES

pytestmark = old_names


def test_a_weighted_sum_of_loss_types_is_our_mix(tmp_path: Path) -> None:
    trainer = dpo_trainer(tmp_path, loss_type=["sigmoid", "hinge", "apo_zero"], loss_weights=[0.8, 0.3, 2.0])
    inputs = batch_of(trainer)
    parts = [{"name": "dpo", "weight": 0.8}, {"name": "hinge", "weight": 0.3}, {"name": "apo_zero", "weight": 2.0}]
    assert ours(trainer, LOSSES["mix"](parts=parts), pairs(inputs)).is_close_to(theirs(trainer, inputs))


@pytest.mark.parametrize(("rows", "same"), [(EQUALLY_LONG, True), (ROWS, False)])
def test_mpo_is_our_mix_but_for_its_sft_term(tmp_path: Path, rows: list[dict[str, str]], same: bool) -> None:
    """TRL's sft is a mean over the tokens of a batch; where all chosen completions are equally long that is ours."""
    types, weights = ["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]
    trainer = dpo_trainer(tmp_path, rows=rows, loss_type=types, loss_weights=weights)
    inputs = batch_of(trainer)
    mix = LOSSES["mix"](parts=[{"name": name, "weight": of} for name, of in zip(("dpo", "bco", "sft"), weights, strict=True)])
    assert ours(trainer, mix, pairs(inputs)).is_close_to(theirs(trainer, inputs)) is same


@pytest.mark.parametrize(("rows", "same"), [(EQUALLY_LONG, True), (ROWS, False)])
def test_rpo_is_our_nll_option_but_for_what_it_averages(tmp_path: Path, rows: list[dict[str, str]], same: bool) -> None:
    """TRL 1.16.0 no longer has `rpo_alpha`; its sft loss type, weighted, stands for it.

    Ours is the mean per token of each completion by itself, as in Pang et al. 2024, arXiv:2404.19733.
    """
    assert not hasattr(DPOConfig, "rpo_alpha")
    trainer = dpo_trainer(tmp_path, rows=rows, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7])
    inputs = batch_of(trainer)
    assert ours(trainer, LOSSES["dpo"](nll=0.7), pairs(inputs)).is_close_to(theirs(trainer, inputs)) is same
