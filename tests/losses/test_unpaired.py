"""Losses that judge each completion by itself: kto and bco, on single completions, on uneven numbers of them, on pairs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from carried import Carried
from hypothesis import given
from hypothesis import strategies as st
from losses.oracles.base import Completion, Prompt, sigmoid, softplus, tensors

from dpo_lab.check.strategies import complete
from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.losses.aot_unpaired import AOTUnpairedLoss
from dpo_lab.losses.bco import BCOLoss
from dpo_lab.losses.kto import KTOLoss
from dpo_lab.losses.unpaired import UnpairedLoss
from dpo_lab.records import CandidateBatch, Logps

UNPAIRED = [KTOLoss, BCOLoss, AOTUnpairedLoss]
numbers = st.floats(-20, 20, width=32)
judged = st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=6)


def singles(found: list[tuple[float, bool]], mismatched: float = 0.0) -> tuple[Logps, CandidateBatch]:
    """Single completions of one token, by their log-ratio and whether they are desirable."""
    policy = torch.tensor([[[ratio] for ratio, _ in found]], dtype=torch.float64)
    logps, batch = complete(policy, torch.zeros_like(policy), torch.ones_like(policy, dtype=torch.bool))
    others = Logps(torch.full_like(policy, mismatched), torch.zeros_like(policy), logps.mask)
    return replace(logps, mismatched=others), replace(batch, desirable=torch.tensor([[good for _, good in found]]))


def step_of(loss: Carried, logps: Logps, batch: CandidateBatch) -> list[float]:
    loss.observe(logps, batch)
    return loss(logps, batch).tolist()


@pytest.mark.parametrize("unpaired", UNPAIRED)
def test_single_completions_without_a_verdict_are_refused(unpaired: type[UnpairedLoss]) -> None:
    _, batch = singles([(0.0, True), (1.0, False)])
    unpaired().check(batch)
    with pytest.raises(ValueError, match=f"loss={unpaired().name} needs to know of each single completion"):
        unpaired().check(replace(batch, desirable=None))


@pytest.mark.parametrize("unpaired", UNPAIRED)
@given(confidence=st.floats(0, 1), utilities=st.lists(numbers, min_size=3, max_size=3))
def test_desirable_is_what_probably_beats_the_others(
    unpaired: type[UnpairedLoss], confidence: float, utilities: list[float]
) -> None:
    loss = unpaired()
    for k in (2, 3):
        mask = torch.ones(k, 1, 1, dtype=torch.bool)
        logps, batch = complete(torch.zeros(k, 1, 1), torch.zeros(k, 1, 1), mask, torch.tensor([confidence]))
        found = loss.probability_desirable(logps, batch)[:, 0].tolist()
        assert found == pytest.approx([confidence, 1 - confidence] if k == 2 else [1, 0.5, 0], abs=1e-6)
    batch.utilities = torch.tensor(utilities)[:, None]
    chances = [[sigmoid(one - other) for other in utilities] for one in utilities]
    expected = [(sum(row) - row[i]) / 2 for i, row in enumerate(chances)]
    assert loss.probability_desirable(logps, batch)[:, 0].tolist() == pytest.approx(expected, abs=1e-5)  # float32


@given(judged, st.floats(-5, 5))
def test_kto_by_hand_on_any_mixture(found: list[tuple[float, bool]], mismatched: float) -> None:
    loss = Carried(KTOLoss(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5))
    z = max(0.0, mismatched)
    expected = [1.5 * (1 - sigmoid(0.3 * (rho - z))) if good else 0.5 * (1 - sigmoid(0.3 * (z - rho))) for rho, good in found]
    assert step_of(loss, *singles(found, mismatched)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_baseline_of_kto_is_never_below_0_and_is_a_constant() -> None:
    for mismatched, baseline in ((-3.0, 0.0), (0.0, 0.0), (2.5, 2.5)):
        loss, (logps, batch) = Carried(KTOLoss()), singles([(1.0, True), (-1.0, False)], mismatched)
        others = logps.mismatched
        assert others is not None
        others.policy.requires_grad_()
        loss.observe(logps, batch)
        assert loss.state == {"baseline": baseline}
        assert loss.extra_metrics(logps, batch)["baseline"] == baseline
        policy = logps.policy.clone().requires_grad_()
        loss(replace(logps, policy=policy), batch).sum().backward()
        assert others.policy.grad is None
        assert policy.grad is not None
        # The slope is that of a sigmoid around the baseline: beta s (1 - s), nothing comes through the baseline itself.
        s = [sigmoid(0.1 * (baseline - 1)), sigmoid(0.1 * (-1 - baseline))]
        slopes = [-0.1 * s[0] * (1 - s[0]), 0.1 * s[1] * (1 - s[1])]
        assert policy.grad.flatten().tolist() == pytest.approx(slopes)


def test_kto_says_so_where_mismatched_completions_are_missing() -> None:
    logps, batch = singles([(1.0, True)])
    with pytest.raises(AssertionError, match="without mismatched completions"):
        Carried(KTOLoss()).observe(replace(logps, mismatched=None), batch)


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_a_weight_of_kto_is_finite_and_not_negative(weight: float) -> None:
    with pytest.raises(ValueError, match="desirable_weight must be >= 0"):
        KTOLoss(desirable_weight=weight)


@given(st.lists(judged, min_size=1, max_size=6), st.sampled_from([0.0, 0.5, 0.9]))
def test_the_shift_of_bco_is_a_bias_corrected_average_of_each_side(steps: list[list[tuple[float, bool]]], decay: float) -> None:
    """Against the plain definition: completions of a step n steps of its kind ago count decay^n."""
    loss = Carried(BCOLoss(beta=0.5, decay=decay))
    for found in steps:
        loss.observe(*singles(found))
    means = []
    for kind in (True, False):
        of_kind = [[0.5 * rho for rho, good in found if good == kind] for found in steps]
        of_kind = [found for found in of_kind if found]
        weights = [decay**age for age in reversed(range(len(of_kind)))]
        count = sum(weight * len(found) for weight, found in zip(weights, of_kind, strict=True))
        total = sum(weight * sum(found) for weight, found in zip(weights, of_kind, strict=True))
        means.append(total / count if count else 0.0)
    assert float(loss.baseline(loss.state)) == pytest.approx(sum(means) / 2, rel=1e-9, abs=1e-9)


def test_the_shift_of_bco_follows_a_drift_that_a_mean_over_all_history_lags_behind() -> None:
    loss, steps = Carried(BCOLoss(beta=1.0)), 200
    drift = [10 * step / (steps - 1) for step in range(steps)]
    for level in drift:
        loss.observe(*singles([(level + 1, True), (level - 1, False)]))
    assert sum(drift) / steps == pytest.approx(5)
    assert float(loss.baseline(loss.state)) == pytest.approx(10 - 9 * 10 / (steps - 1), abs=1e-6)  # 9 steps behind


def test_a_step_of_one_kind_leaves_the_average_of_the_other() -> None:
    loss = Carried(BCOLoss(beta=1.0))
    loss.observe(*singles([(4.0, True), (-2.0, False)]))
    before = dict(loss.state)
    loss.observe(*singles([(6.0, True)] * 3))
    assert {name: loss.state[name] for name in before if name.startswith("un")} == {
        name: value for name, value in before.items() if name.startswith("un")
    }
    assert float(loss.baseline(loss.state)) == pytest.approx(((0.9 * 4 + 3 * 6) / (0.9 + 3) - 2) / 2)


@given(judged)
def test_bco_on_any_mixture(found: list[tuple[float, bool]]) -> None:
    loss = Carried(BCOLoss(beta=0.3))
    values = step_of(loss, *singles(found))
    expected = [
        softplus(-(0.3 * rho - float(loss.baseline(loss.state))))
        if good
        else softplus(0.3 * rho - float(loss.baseline(loss.state)))
        for rho, good in found
    ]
    assert values == pytest.approx(expected, rel=1e-9)


def test_the_shift_of_bco_is_of_what_stands_apart_not_of_what_is_many() -> None:
    """90 bad completions and 10 good ones: halfway between the kinds, where a mean over all would sit on the bad ones."""
    loss = Carried(BCOLoss(beta=1.0))
    loss.observe(*singles([(3.0, True)] * 10 + [(-1.0, False)] * 90))
    assert float(loss.baseline(loss.state)) == pytest.approx(1.0)


@pytest.mark.parametrize("unpaired", UNPAIRED)
def test_an_evaluation_leaves_the_state_as_it_is(unpaired: type[PreferenceLoss]) -> None:
    loss = Carried(unpaired())
    loss.observe(*singles([(1.0, True), (-2.0, False), (0.5, False)], mismatched=0.5))
    before = dict(loss.state)
    logps, batch = singles([(7.0, True), (3.0, False)], mismatched=4.0)
    first = loss(logps, batch).tolist()
    loss.extra_metrics(logps, batch)
    loss.rewards(logps, batch)
    assert loss.state == before
    assert loss(logps, batch).tolist() == first


@pytest.mark.parametrize("name", ["kto", "bco", "aot_unpaired"])
def test_sharing_no_settings_with_pairs_is_said_with_the_reason(name: str) -> None:
    for setting, reason in LOSSES[name].unsupported.items():
        assert reason.count(".") == 0, f"{setting}: one sentence"
    with pytest.raises(ValueError, match="no chosen completion to imitate"):
        LOSSES[name](nll=1.0)


def test_aot_refuses_data_of_one_kind() -> None:
    _, batch = tensors([Prompt([Completion([-1.0], [-2.0], desirable=False)]) for _ in range(3)])
    with pytest.raises(ValueError, match="all of this data are undesirable"):
        LOSSES["aot_unpaired"]().check(batch)
    assert batch.desirable is not None
    batch.desirable[0, 1] = True
    LOSSES["aot_unpaired"]().check(batch)
