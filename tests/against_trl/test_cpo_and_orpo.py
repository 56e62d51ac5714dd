"""CPOTrainer and ORPOTrainer of TRL 1.16.0's experimental part: losses without a reference.

Their NLL terms are means over all tokens of the batch, where ours are means over prompts of each completion's own mean: a
value must not depend on how a step is cut into batches. The pair terms are the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from against_trl.comparing import CLOSE, Found, Logits, batch_of, candidates, logps_of, ours, theirs
from against_trl.tiny import EQUALLY_LONG, SWAPPED, build, llama, old_names
from torch import Tensor
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from dpo_lab.losses import LOSSES
from dpo_lab.records import Aggregate, CandidateBatch
from dpo_lab.scoring.logps import token_logps

pytestmark = old_names


def cpo_trainer(path: Path, **options: Any) -> CPOTrainer:
    return build(CPOTrainer, CPOConfig, path, {"model": llama()}, **options)


def orpo_trainer(path: Path, **options: Any) -> ORPOTrainer:
    return build(ORPOTrainer, ORPOConfig, path, {"model": llama()}, **options)


def pairs(trainer: CPOTrainer | ORPOTrainer, inputs: dict[str, Tensor]) -> CandidateBatch:
    joined = trainer.concatenated_inputs(inputs, padding_value=0)
    return candidates(
        joined["concatenated_input_ids"], joined["concatenated_attention_mask"], joined["concatenated_labels"] != -100
    )


def nll_per_token(trainer: CPOTrainer, batch: CandidateBatch) -> Found:
    """Of the chosen completions, every token of the batch counted alike."""
    sums = ours(trainer, LOSSES["sft"](aggregate=Aggregate.sum), batch)
    return len(batch) / batch.mask[0].sum().item() * sums


SAME: list[tuple[str, dict[str, Any], float, str, dict[str, Any]]] = [
    ("sigmoid", {}, 1.0, "cpo", {"nll": 0.0}),
    ("sigmoid", {"label_smoothing": 0.2, "beta": 0.5}, 1.0, "cpo", {"nll": 0.0, "label_smoothing": 0.2, "beta": 0.5}),
    # SLiC has delta in nats and no beta: relu(1 - beta * gap) is beta * relu(1 / beta - gap).
    ("hinge", {"beta": 0.2}, 0.2, "slic", {"nll": 0.0, "delta": 5.0}),
    # TRL gives gamma itself, we gamma / beta as the authors do.
    ("simpo", {"beta": 2.0, "simpo_gamma": 0.5}, 1.0, "simpo", {}),
    ("simpo", {"beta": 2.0, "simpo_gamma": 1.6}, 1.0, "simpo", {"gamma_ratio": 0.8}),
    (
        "simpo",
        {"label_smoothing": 0.2, "simpo_gamma": 0.0},
        1.0,
        "simpo",
        {"beta": 0.1, "gamma_ratio": 0.0, "label_smoothing": 0.2},
    ),
    ("alphapo", {"beta": 2.5, "simpo_gamma": 0.25, "alpha": 0.25}, 1.0, "alphapo", {}),
    ("alphapo", {"beta": 2.5, "simpo_gamma": 0.25, "alpha": -0.5}, 1.0, "alphapo", {"alpha": -0.5}),
]


@pytest.mark.parametrize(("loss_type", "options", "factor", "name", "settings"), SAME)
def test_the_pair_term_of_a_loss_type_is_our_loss(
    tmp_path: Path, loss_type: str, options: dict[str, Any], factor: float, name: str, settings: dict[str, Any]
) -> None:
    trainer = cpo_trainer(tmp_path, loss_type=loss_type, cpo_alpha=0.0, **options)
    inputs = batch_of(trainer)
    here = ours(trainer, LOSSES[name](**settings), pairs(trainer, inputs))
    assert (factor * here).is_close_to(theirs(trainer, inputs))


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_nll_term_is_a_mean_over_tokens_there_and_over_completions_here(tmp_path: Path, weight: float) -> None:
    trainer = cpo_trainer(tmp_path, cpo_alpha=weight)
    inputs = batch_of(trainer)
    batch, found = pairs(trainer, inputs), theirs(trainer, inputs)
    pair_term = ours(trainer, LOSSES["cpo"](nll=0.0), batch)
    assert (pair_term + weight * nll_per_token(trainer, batch)).is_close_to(found)
    assert (pair_term + weight * ours(trainer, LOSSES["sft"](), batch)).is_close_to(
        here := ours(trainer, LOSSES["cpo"](nll=weight), batch)
    )
    assert not here.is_close_to(found)


@pytest.mark.parametrize(("loss_type", "name"), [("sigmoid", "cpo"), ("simpo", "simpo")])
def test_where_chosen_completions_are_equally_long_the_whole_loss_is_ours(tmp_path: Path, loss_type: str, name: str) -> None:
    trainer = cpo_trainer(tmp_path, rows=EQUALLY_LONG, loss_type=loss_type, beta=0.5, simpo_gamma=0.25)
    inputs = batch_of(trainer)
    settings = {"gamma_ratio": 0.5} if name == "simpo" else {}
    assert ours(trainer, LOSSES[name](beta=0.5, nll=1.0, **settings), pairs(trainer, inputs)).is_close_to(
        theirs(trainer, inputs)
    )


def test_a_smoothed_simpo_turns_the_margin_there_and_the_pair_here(tmp_path: Path) -> None:
    """Ours is an expectation over labels, like every smoothed loss here: the completion that is better has to lead by gamma.

    TRL's, and the authors' code's, asks the rejected one for a lead of -gamma. With gamma 0 they are the same (above).
    """
    settings = {"beta": 2.0, "simpo_gamma": 0.5, "loss_type": "simpo", "cpo_alpha": 0.0}
    plain, smooth = cpo_trainer(tmp_path, **settings), cpo_trainer(tmp_path, label_smoothing=0.2, **settings)
    swapped, turned = (cpo_trainer(tmp_path, rows=SWAPPED, **{**settings, "simpo_gamma": gamma}) for gamma in (0.5, -0.5))
    right, wrong, other = (theirs(trainer, batch_of(trainer)) for trainer in (plain, swapped, turned))
    inputs = batch_of(plain)
    assert ours(plain, LOSSES["simpo"](label_smoothing=0.2), pairs(plain, inputs)).is_close_to(0.8 * right + 0.2 * wrong)
    assert theirs(smooth, batch_of(smooth)).is_close_to(0.8 * right + 0.2 * other)


def test_ipo_without_a_reference_is_ours_with_an_indifferent_one(tmp_path: Path) -> None:
    trainer = cpo_trainer(tmp_path, loss_type="ipo", cpo_alpha=0.0)
    inputs, loss = batch_of(trainer), LOSSES["ipo"]()
    batch = pairs(trainer, inputs)
    logps = logps_of(trainer, LOSSES["cpo"](), batch)
    indifferent = replace(logps, reference=torch.zeros_like(logps.policy))
    assert Found.of(loss(indifferent, batch).mean(), trainer.model).is_close_to(theirs(trainer, inputs))


def test_alphapo_overflows_there_and_goes_on_along_its_tangent_here(tmp_path: Path) -> None:
    trainer = cpo_trainer(tmp_path, loss_type="alphapo", alpha=10.0)
    with torch.no_grad():
        trainer.model.lm_head.weight *= 8  # completions of more than 9 nats per token
    inputs = batch_of(trainer)
    here = ours(trainer, LOSSES["alphapo"](alpha=10.0), pairs(trainer, inputs))
    assert here.gradient.isfinite().all()
    assert not theirs(trainer, inputs).gradient.isfinite().all()


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_orpo_counts_the_prompts_tokens_too_there(tmp_path: Path, beta: float) -> None:
    """TRL's NLL is of prompt and chosen completion, as in the authors' code unless told otherwise (`disable_prompt_loss`).

    Ours is the paper's: of the completion given the prompt.
    """
    trainer = orpo_trainer(tmp_path, beta=beta)
    inputs = batch_of(trainer)
    batch, found = pairs(trainer, inputs), theirs(trainer, inputs)
    odds = ours(trainer, LOSSES["orpo"](beta=beta, nll=0.0), batch)
    tokens, present = inputs["chosen_input_ids"], inputs["chosen_attention_mask"].bool()
    predicted = present.clone()
    predicted[:, 0] = False
    whole = -token_logps(Logits(trainer.model), tokens, present, predicted).sum() / predicted.sum()
    assert (odds + Found.of(whole, trainer.model)).is_close_to(found)
    here = ours(trainer, LOSSES["orpo"](beta=beta), batch)
    assert here.is_close_to(odds + ours(trainer, LOSSES["sft"](), batch))
    assert not here.is_close_to(found)
    logged = trainer._stored_metrics["train"]["log_odds_chosen"][-1]
    chosen, rejected = LOSSES["orpo"]().logratios(logps_of(trainer, LOSSES["orpo"](), batch), batch)
    assert (chosen - rejected).mean().item() == pytest.approx(logged, rel=CLOSE)
