"""A mix is the sum of its parts, in every respect."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from carried import Carried
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dpo_lab.check.strategies import comparisons, numbers_of_candidates, wide_pairs
from dpo_lab.cli.composing import composed
from dpo_lab.losses import LOSSES, Laws, PreferenceLoss
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.ipo import IPOLoss
from dpo_lab.losses.margins import Margin
from dpo_lab.losses.mix import MixLoss
from dpo_lab.losses.sft import SFTLoss
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.records import Aggregate, CandidateBatch, Logps

Loss = type[PreferenceLoss]
EXACT = {"rtol": 1e-12, "atol": 1e-12}
STATEFUL = [{"name": "dpo"}, {"name": "alpha_dpo", "weight": 0.5}, {"name": "bco"}]


def mixed(*parts: Any) -> MixLoss:
    return MixLoss(parts=list(parts))


def asked(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> dict[str, Tensor]:
    """Values, gradient and rewards in a step of these comparisons."""
    policy = logps.policy.clone().requires_grad_()
    carried = Carried(loss)
    if loss.couples_batch:
        carried.observe(logps, batch)
    values = carried(replace(logps, policy=policy), batch)
    (gradient,) = torch.autograd.grad(values.sum(), policy)
    return {"values": values.detach(), "gradient": gradient, "rewards": carried.rewards(logps, batch)}


# The sum


def test_a_mix_of_one_is_itself(loss_class: Loss) -> None:
    if loss_class is MixLoss:
        return
    single, alone = mixed({"name": loss_class.name}), loss_class()
    for k in numbers_of_candidates(loss_class):
        drawn = wide_pairs(k=k, b=16)
        found, expected = asked(single, *drawn), asked(alone, *drawn)
        for what, tensor in expected.items():
            torch.testing.assert_close(found[what], tensor, rtol=0, atol=0, msg=what)
        assert single.value_at_reference(k) == alone.value_at_reference(k)
    for name in ("needs_reference", "needs_scores", "needs_kl", "needs_mismatched", "needs_collision", "couples_batch"):
        assert getattr(single, name) == getattr(alone, name), name
    for name in ("reads_confidence", "min_candidates", "max_candidates", "laws"):
        assert getattr(single, name) == getattr(alone, name), name
    assert single.warnings() == alone.warnings()
    assert single.initial_state() == {f"0.{name}": value for name, value in alone.initial_state().items()}
    metrics = {f"0.{name}" for name in Carried(alone).extra_metrics(*drawn)}
    assert set(Carried(single).extra_metrics(*drawn)) == {f"0.{alone.name}", *metrics}


@given(comparisons(uncertain=True), st.floats(0.01, 10), st.floats(0.01, 10))
def test_a_mix_is_linear_in_its_weights(drawn: tuple[Logps, CandidateBatch], one: float, other: float) -> None:
    loss = mixed({"name": "ipo", "weight": one}, {"name": "sft", "weight": other, "aggregate": "sum"})
    found, first, second = (asked(part, *drawn) for part in (loss, IPOLoss(), SFTLoss(aggregate=Aggregate.sum)))
    for what in ("values", "gradient"):
        torch.testing.assert_close(found[what], one * first[what] + other * second[what], **EXACT)
    torch.testing.assert_close(found["rewards"], first["rewards"], rtol=0, atol=0)


def test_the_default_is_mpo() -> None:
    loss = MixLoss()
    assert [(part.name, weight) for part, weight in zip(loss.losses, loss.weights, strict=True)] == [
        ("dpo", 0.8),
        ("bco", 0.2),
        ("sft", 1.0),
    ]
    assert all(type(part)() == part for part in loss.losses)
    for name in ("needs_reference", "couples_batch", "reads_confidence", "min_candidates", "max_candidates", "laws"):
        assert getattr(loss, name) == getattr(MixLoss, name), name


def test_slic_with_its_papers_sum_is_a_mix() -> None:
    logps, batch = wide_pairs(b=16)
    paper = mixed({"name": "slic", "nll": 0.0}, {"name": "sft", "aggregate": "sum", "weight": 0.1})(logps, batch)
    chosen, rejected = (logps.policy * logps.mask).sum(dim=-1)
    torch.testing.assert_close(paper, torch.relu(1 - chosen + rejected) - 0.1 * chosen, **EXACT)
    assert not torch.allclose(LOSSES["slic"]()(logps, batch), paper), "ours takes the mean per token"


def test_each_part_keeps_its_own_nll_and_weight() -> None:
    drawn = wide_pairs(b=8)
    both = mixed({"name": "cpo", "weight": 0.5}, {"name": "dpo", "nll": 2.0})(*drawn)
    torch.testing.assert_close(both, 0.5 * LOSSES["cpo"]()(*drawn) + DPOLoss(nll=2.0)(*drawn), **EXACT)


# Parts


def test_words_become_what_the_parts_settings_are() -> None:
    loss = mixed(
        {"name": "dpo", "beta": 2, "aggregate": "mean", "margin": {"score": "0.5"}},
        {"name": "dpo", "aggregate": Aggregate.shared, "margin": Margin(constant=1.0)},
    )
    assert loss.losses == [
        DPOLoss(beta=2.0, aggregate=Aggregate.mean, margin=Margin(score=0.5)),
        DPOLoss(aggregate=Aggregate.shared, margin=Margin(constant=1.0)),
    ]


@pytest.mark.parametrize(
    ("parts", "needs"),
    [
        ([{"name": "simpo"}, {"name": "sft"}], set()),
        ([{"name": "sft"}, {"name": "dpo"}], {"needs_reference"}),
        ([{"name": "simpo"}, {"name": "rebel"}], {"needs_reference", "needs_scores"}),
        ([{"name": "dpo"}, {"name": "tdpo1"}], {"needs_reference", "needs_kl"}),
        ([{"name": "dpo"}, {"name": "alpha_dpo"}], {"needs_reference", "couples_batch"}),
    ],
)
def test_a_mix_needs_what_its_parts_need(parts: list[Any], needs: set[str]) -> None:
    loss = mixed(*parts)
    known = ("needs_reference", "needs_scores", "needs_kl", "needs_mismatched", "needs_collision", "couples_batch")
    assert {name for name in known if getattr(loss, name)} == needs


def test_a_mix_checks_the_data_as_each_part_does() -> None:
    _, batch = wide_pairs(b=4)
    scored = mixed({"name": "sft"}, {"name": "rebel"})
    scored.check(batch)
    with pytest.raises(ValueError, match="loss=rebel needs the candidates' scores"):
        scored.check(replace(batch, scores=None))


def test_the_warnings_are_those_of_the_parts() -> None:
    assert (
        mixed({"name": "sft"}, {"name": "dpo", "aggregate": "mean"}).warnings() == DPOLoss(aggregate=Aggregate.mean).warnings()
    )


def test_a_mix_keeps_the_laws_that_all_parts_keep() -> None:
    laws = mixed({"name": "dpo"}, {"name": "ipo", "beta": 1.0}).laws
    assert laws == Laws(shift_invariant=True, ratios_only=True, convex=True, rowwise=True, nonnegative=True)
    assert mixed({"name": "dpo"}).laws == DPOLoss.laws


def test_the_value_at_the_reference_is_the_weighted_sum_if_all_parts_have_one() -> None:
    assert mixed({"name": "dpo", "weight": 0.5}, {"name": "ipo", "beta": 0.5}).value_at_reference() == pytest.approx(
        0.5 * math.log(2) + 1.0
    )
    assert mixed({"name": "dpo"}, {"name": "sft"}).value_at_reference() is None


# State


def test_state_carries_the_position_of_its_part() -> None:
    loss, drawn = Carried(mixed(*STATEFUL)), wide_pairs(b=16)
    alone = [Carried(LOSSES[part["name"]]()) for part in STATEFUL]
    assert set(loss.initial_state()) == {f"{i}.{name}" for i, part in enumerate(alone) for name in part.initial_state()}
    assert loss.state == loss.initial_state()
    loss.observe(*drawn)
    for part in alone[1:]:
        part.observe(*drawn)
    assert loss.state == {f"{i}.{name}": value for i, part in enumerate(alone) for name, value in part.state.items()}
    assert loss.state["1.steps"] == 1


def test_a_state_put_back_gives_the_same_values() -> None:
    loss, fresh, drawn = Carried(mixed(*STATEFUL)), Carried(mixed(*STATEFUL)), wide_pairs(b=16)
    loss.observe(*drawn)
    assert not torch.equal(fresh(*drawn), loss(*drawn))
    fresh.state = dict(loss.state)
    assert torch.equal(fresh(*drawn), loss(*drawn))
    fresh.state = fresh.initial_state()
    assert torch.equal(fresh(*drawn), Carried(mixed(*STATEFUL))(*drawn))


def test_more_than_ten_parts_do_not_mix_up_their_states() -> None:
    loss, drawn = Carried(mixed(*[{"name": "alpha_dpo", "decay": i / 20} for i in range(12)])), wide_pairs(b=16)
    loss.observe(*drawn)
    loss.observe(*wide_pairs(b=16, seed=1))
    fresh = Carried(mixed(*loss.parts))
    fresh.state = loss.state
    assert fresh.state == loss.state
    assert len({float(loss.state[f"{i}.mean"]) for i in range(12)}) == 12


def test_observing_leaves_the_state_that_it_is_given() -> None:
    loss = mixed(*STATEFUL)
    before = loss.initial_state()
    assert loss.observe(*wide_pairs(b=16), before) != before
    assert before == loss.initial_state()


def test_extra_metrics_carry_the_position_of_their_part() -> None:
    loss, drawn = Carried(mixed(*STATEFUL)), wide_pairs(b=16)
    loss.observe(*drawn)
    metrics = loss.extra_metrics(*drawn)
    assert {"0.dpo", "1.alpha_dpo", "1.target", "2.bco", "2.delta"} <= set(metrics)
    torch.testing.assert_close(metrics["0.dpo"], DPOLoss()(*drawn).mean())
    total = metrics["0.dpo"] + 0.5 * metrics["1.alpha_dpo"] + metrics["2.bco"]
    torch.testing.assert_close(total, loss(*drawn).mean())


# What is refused

REFUSED: list[tuple[list[Any], str]] = [
    ([], r"loss.parts must have at least one part, such as \{name: dpo, weight: 0.8\}, got \[\]"),
    (["dpo"], r"loss.parts\[0\] must have the name of a loss, such as \{.*\}, got dpo"),
    ([{"weight": 1.0}], r"loss.parts\[0\] must have the name of a loss, .* got \{'weight': 1.0\}"),
    ([{"name": "sft"}, {"name": "dpoo"}], r"loss.parts\[1\]: there is no loss 'dpoo'. Did you mean 'dpo'\?"),
    ([{"name": "dpo", "betta": 1}], r"loss.parts\[0\]: there is no setting 'betta'. Did you mean 'beta'\?"),
    ([{"name": "dpo", "margin": {"scroe": 1}}], r"loss.parts\[0\]: .* 'margin.scroe'. Did you mean 'score'\?"),
    ([{"name": "dpo", "aggregate": "meen"}], r"loss.parts\[0\].aggregate: Invalid value 'meen', expected one of \[sum, mean"),
    ([{"name": "dpo", "beta": "x"}], r"loss.parts\[0\].beta: Value 'x' of type 'str' could not be converted to Float"),
    ([{"name": "dpo", "margin": {"data": "x"}}], r"loss.parts\[0\].margin.data: Value 'x' of type 'str' could not"),
    ([{"name": "dpo", "beta": -1}], r"loss.parts\[0\]: loss.beta must be > 0 and finite, got -1"),
    ([{"name": "sft", "beta": 2}], r"loss.parts\[0\]: loss.beta cannot be used with loss=sft: it imitates"),
    ([{"name": "mix"}], r"loss.parts\[0\] cannot be a mix itself: list the inner parts beside the others"),
    *(
        ([{"name": "dpo", "weight": weight}], r"loss.parts\[0\].weight is how much the part counts: a number > 0 and finite")
        for weight in (0, -1.0, math.inf, math.nan, "wpo", True, None)
    ),
]


@pytest.mark.parametrize(("parts", "message"), REFUSED)
def test_a_part_that_is_none_is_refused_in_one_sentence(parts: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        MixLoss(parts=parts)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("settings", [{"beta": 0.5}, {"aggregate": Aggregate.mean}, {"nll": 1.0}, {"margin": Margin(1.0)}])
def test_shared_settings_belong_to_the_parts(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"loss.{next(iter(settings))} cannot be used with loss=mix: give it to its parts"):
        MixLoss(**settings)


# From text


def test_a_mix_is_composed_from_words() -> None:
    study = to_study(composed(["loss=mix", "loss.parts=[{name:dpo,weight:0.8,beta:0.2,aggregate:mean},{name:sft}]"]))
    assert isinstance(study.loss, MixLoss)
    assert study.loss.losses == [DPOLoss(beta=0.2, aggregate=Aggregate.mean), SFTLoss()]
    assert study.loss.weights == [0.8, 1.0]


def test_a_mix_is_composed_from_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "ours.yaml").write_text(
        "defaults:\n  - /schema/loss@_here_: mix\nparts:\n  - name: ipo\n    weight: 0.1\n  - name: sft\n"
    )
    study = to_study(composed(["loss=ours"], [tmp_path]))
    assert isinstance(study.loss, MixLoss)
    assert study.loss.losses == [IPOLoss(), SFTLoss()]


def test_a_mix_without_a_reference_needs_none() -> None:
    to_study(composed(["loss=mix", "loss.parts=[{name:simpo},{name:sft}]", "reference=none"]))
    with pytest.raises(ValueError, match="loss=mix needs a reference"):
        to_study(composed(["loss=mix", "reference=none"]))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("loss.parts=[{name:dpoo}]", r"^loss.parts\[0\]: there is no loss 'dpoo'. Did you mean 'dpo'\?$"),
        ("loss.parts=[{name:dpo,betta:1}]", r"^loss.parts\[0\]: there is no setting 'betta'. Did you mean 'beta'\?$"),
        ("loss.parts=[{name:dpo,weight:0}]", r"^loss.parts\[0\].weight is how much the part counts: .*, got 0$"),
        ("loss.pats=[{name:dpo}]", r"there is no setting 'loss.pats'. Did you mean 'loss.parts'\?"),
        ("loss.beta=0.5", "loss.beta cannot be used with loss=mix: give it to its parts"),
    ],
)
def test_a_mistake_on_the_command_line_is_answered_in_one_sentence(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_study(composed(["loss=mix", word]))
