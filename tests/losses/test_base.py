"""What every loss has from its base class: options held together, ranges of settings, a state that is asked for."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest
from torch import Tensor

from dpo_lab.check.strategies import sample
from dpo_lab.losses import LOSSES, Laws, PairLoss, PreferenceLoss
from dpo_lab.losses.base import State
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.kto import KTOLoss
from dpo_lab.losses.options import LossOptions, with_options
from dpo_lab.records import Aggregate, CandidateBatch, Logps


def test_options_are_settings_of_a_loss_and_held_together(loss_class: type[PreferenceLoss]) -> None:
    loss = loss_class()
    assert {option.name for option in fields(LossOptions)} <= {setting.name for setting in fields(loss)}
    assert loss.options == LossOptions(**{option.name: getattr(loss, option.name) for option in fields(LossOptions)})
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert (twin, twin.options) == (loss, loss.options)


def test_a_copy_with_other_options_has_them() -> None:
    loss = DPOLoss(beta=0.5, nll=1.0).with_settings(aggregate=Aggregate.mean)
    assert (loss.beta, loss.options) == (0.5, LossOptions(aggregate=Aggregate.mean, nll=1.0))


@with_options
@dataclass
class Ranged(PairLoss):
    name: str = "ranged"
    width: float = 0.5
    depth: float = 1.0
    ranges: ClassVar[dict[str, str]] = {"width": "(0, 1]: wider is flat", "depth": "[0, inf)"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width": 0.0}, r"loss\.width must be in \(0, 1\], got 0\.0: wider is flat"),
        ({"width": 1.5}, r"loss\.width must be in \(0, 1\]"),
        ({"width": float("nan")}, r"loss\.width must be in \(0, 1\], got nan"),
        ({"depth": -1.0}, r"loss\.depth must be >= 0 and finite, got -1"),
        ({"depth": float("inf")}, r"loss\.depth must be >= 0 and finite, got inf"),
        ({"beta": 0.0}, r"loss\.beta must be > 0 and finite, got 0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(setting: dict[str, float], message: str) -> None:
    Ranged(width=1.0, depth=0.0)
    with pytest.raises(ValueError, match=message):
        Ranged(**setting)


def test_a_loss_that_carries_a_state_asks_for_it() -> None:
    with pytest.raises(AssertionError, match=r"loss=kto carries \['baseline'\] from step to step, got \[\]"):
        KTOLoss()(*sample(2))
    assert LOSSES["kto"]()(*sample(2), {"baseline": 0.0}).isfinite().all()


def test_a_misspelt_law_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no law 'convx'\. Did you mean 'convex'\?"):
        Laws.of("convx rowwise")
    assert Laws.of("convex rowwise").names == ["convex", "raises_margin", "rowwise"]


class Meaned(DPOLoss):
    def per_pair(self, diff: Tensor) -> Tensor:
        return super().per_pair(diff).mean()


class Summed(DPOLoss):
    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Tensor:
        return super().values(logps, batch, state).sum()


@pytest.mark.parametrize(("loss", "must"), [(Meaned(), "a value for each pair, "), (Summed(), "a value for each prompt, ")])
def test_a_loss_that_takes_the_mean_itself_is_refused(loss: DPOLoss, must: str) -> None:
    """It would be spread over all prompts, train, and change with the size of the micro-batches."""
    with pytest.raises(ValueError, match=must):
        loss(*sample(2))
