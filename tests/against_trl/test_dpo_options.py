"""What DPOTrainer combines with its loss types: divergences, LD-DPO, WPO, label smoothing; ours, or a stated difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from against_trl.comparing import CLOSE, batch_of, logps_of, ours, pairs, theirs
from against_trl.tiny import SWAPPED, dpo_trainer, old_names

from dpo_lab.losses import LOSSES
from dpo_lab.losses.divergences import Divergence
from dpo_lab.losses.options import Weighting
from dpo_lab.records import Aggregate

pytestmark = old_names

DIVERGENCES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("reverse_kl", {}, {"divergence": Divergence.reverse_kl}),
    ("forward_kl", {}, {"divergence": Divergence.forward_kl}),
    ("js_divergence", {}, {"divergence": Divergence.js}),
    ("alpha_divergence", {}, {"divergence": Divergence.alpha}),
    # f'(u) = (1 - u^-a) / a in the paper (arXiv:2309.16240) and here. TRL's coefficient is 1 - a, though its help says u^-a.
    # The default, .5, is the same in both.
    ("alpha_divergence", {"f_alpha_divergence_coef": 0.3}, {"divergence": Divergence.alpha, "divergence_alpha": 0.7}),
    ("alpha_divergence", {"f_alpha_divergence_coef": 0.0}, {"divergence": Divergence.forward_kl}),
    ("alpha_divergence", {"f_alpha_divergence_coef": 0.0}, {"divergence": Divergence.alpha, "divergence_alpha": 1.0}),
    ("alpha_divergence", {"f_alpha_divergence_coef": 1.0}, {"divergence": Divergence.reverse_kl}),
]


@pytest.mark.parametrize(("loss_type", "name"), [("sigmoid", "dpo"), ("hinge", "hinge"), ("discopop", "discopop")])
@pytest.mark.parametrize(("divergence", "options", "settings"), DIVERGENCES)
def test_a_divergence_is_our_link(
    tmp_path: Path, loss_type: str, name: str, divergence: str, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    trainer = dpo_trainer(tmp_path, loss_type=[loss_type], f_divergence_type=divergence, **options)
    inputs = batch_of(trainer)
    assert ours(trainer, LOSSES[name](**settings), pairs(inputs)).is_close_to(theirs(trainer, inputs))


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence"])
@pytest.mark.parametrize(("loss_type", "name"), [("sigmoid_norm", "dpo"), ("ipo", "ipo")])
def test_lengths_and_divergences_combine_otherwise(tmp_path: Path, loss_type: str, name: str, divergence: str) -> None:
    """TRL links the sum and divides that by the length; ours links the mean.

    We link what is compared, whatever the aggregate: no paper has the combination, and TRL's reward of a long completion goes
    to 0 with its length however the policy has moved, for these links are bounded on one side.
    """
    trainer = dpo_trainer(tmp_path, loss_type=[loss_type], f_divergence_type=divergence)
    inputs = batch_of(trainer)
    link = Divergence(divergence.removesuffix("_divergence"))
    loss = LOSSES[name](aggregate=Aggregate.mean, divergence=link)
    sums = LOSSES[name](aggregate=Aggregate.sum, divergence=link)
    batch, found = pairs(inputs), theirs(trainer, inputs)
    logps = logps_of(trainer, loss, batch)
    chosen, rejected = sums.logratios(logps, batch) / logps.lengths
    assert loss.per_pair(chosen - rejected).mean().item() == pytest.approx(found.loss, rel=CLOSE)
    assert not ours(trainer, loss, batch).is_close_to(found)


@pytest.mark.parametrize(("loss_type", "name"), [("sigmoid", "dpo"), ("hinge", "hinge"), ("apo_down", "apo_down")])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_ld_alpha_is_our_shared_aggregate(tmp_path: Path, loss_type: str, name: str, alpha: float) -> None:
    trainer = dpo_trainer(tmp_path, loss_type=[loss_type], ld_alpha=alpha)
    inputs = batch_of(trainer)
    loss = LOSSES[name](aggregate=Aggregate.shared, shared_rest=alpha)
    assert ours(trainer, loss, pairs(inputs)).is_close_to(theirs(trainer, inputs))


WEIGHTED = [
    ("sigmoid", {}, "dpo", {}),
    ("ipo", {}, "ipo", {}),
    ("exo_pair", {"label_smoothing": 0.1}, "exo", {"epsilon": 0.1}),
    ("robust", {"label_smoothing": 0.1}, "robust", {}),
    ("discopop", {}, "discopop", {}),
    ("apo_down", {}, "apo_down", {}),
]


@pytest.mark.parametrize(("loss_type", "options", "name", "settings"), WEIGHTED)
def test_use_weighting_is_our_wpo(
    tmp_path: Path, loss_type: str, options: dict[str, Any], name: str, settings: dict[str, Any]
) -> None:
    trainer = dpo_trainer(tmp_path, loss_type=[loss_type], use_weighting=True, **options)
    inputs = batch_of(trainer)
    assert ours(trainer, LOSSES[name](weighting=Weighting.wpo, **settings), pairs(inputs)).is_close_to(theirs(trainer, inputs))


def test_a_weighted_hinge_has_no_gradient_there(tmp_path: Path) -> None:
    """TRL multiplies the output of relu in place, which its backward pass needs. The values agree."""
    trainer = dpo_trainer(tmp_path, loss_type=["hinge"], use_weighting=True)
    inputs = batch_of(trainer)
    loss = trainer.compute_loss(trainer.model, inputs)
    here = ours(trainer, LOSSES["hinge"](weighting=Weighting.wpo), pairs(inputs))
    assert here.loss == pytest.approx(loss.item(), rel=CLOSE)
    assert here.gradient.isfinite().all()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(("loss_type", "name"), [("sigmoid", "dpo"), ("hinge", "hinge"), ("ipo", "ipo"), ("sppo_hard", "sppo")])
def test_label_smoothing_is_ignored_there_and_conservative_here(tmp_path: Path, loss_type: str, name: str) -> None:
    """We follow cDPO (Mitchell 2023): the expectation over labels that may be wrong, of whichever loss of pairs."""
    plain = dpo_trainer(tmp_path, loss_type=[loss_type])
    smooth = dpo_trainer(tmp_path, loss_type=[loss_type], label_smoothing=0.2)
    swapped = dpo_trainer(tmp_path, rows=SWAPPED, loss_type=[loss_type])
    inputs = batch_of(plain)
    right, wrong = theirs(plain, inputs), theirs(swapped, batch_of(swapped))
    assert theirs(smooth, batch_of(smooth)).loss == right.loss
    assert ours(plain, LOSSES[name](label_smoothing=0.2), pairs(inputs)).is_close_to(0.8 * right + 0.2 * wrong)
