"""What is logged of a step: the loss's own rewards, ties counted one half."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.losses.base import NO_STATE, State
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.training.metrics import Meter, add_tallies, count_once, evaluation_metrics, means, preference_metrics


def record(policy: Tensor, reference: Tensor | None, mask: Tensor | None = None) -> tuple[Logps, CandidateBatch]:
    mask = torch.ones_like(policy, dtype=torch.bool) if mask is None else mask
    b = policy.shape[1]
    batch = CandidateBatch(
        prompt=torch.zeros(b, 1, dtype=torch.long),
        prompt_mask=torch.ones(b, 1, dtype=torch.bool),
        completions=torch.zeros(policy.shape, dtype=torch.long),
        mask=mask,
        ids=torch.arange(b),
        confidence=torch.ones(b, dtype=policy.dtype),
    )
    return Logps(policy * mask, None if reference is None else reference * mask, mask), batch


def drawn(k: int = 2, b: int = 5, m: int = 3, seed: int = 0) -> tuple[Logps, CandidateBatch]:
    draw = torch.Generator().manual_seed(seed)
    policy, reference = (-torch.rand(k, b, m, dtype=torch.float64, generator=draw) for _ in range(2))
    mask = torch.rand(k, b, m, generator=draw) < 0.6
    mask[:, :, 0] = True
    return record(policy, reference, mask)


def complete() -> tuple[Logps, CandidateBatch]:
    """Pairs of which everything is known that a loss may read."""
    logps, batch = drawn()
    batch.scores = torch.tensor([[2.0], [1.0]], dtype=torch.float64).expand(2, 5)
    assert logps.reference is not None
    nats = logps.policy.abs()
    logps = replace(logps, kl=nats, collision=-nats, mismatched=Logps(logps.policy[:1], logps.reference[:1], logps.mask[:1]))
    return logps, batch


def having_seen(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> State:
    """The loss's state after one step."""
    return loss.observe(logps, batch, loss.initial_state()) if loss.couples_batch else loss.initial_state()


def metrics_of(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Any]:
    return means(preference_metrics(loss, loss(logps, batch, state), logps, batch, state))


@given(pairs=st.lists(st.tuples(st.integers(-3, 0), st.integers(-3, 0)), min_size=1, max_size=6))
def test_an_accuracy_counts_a_tie_as_one_half(pairs: list[tuple[int, int]]) -> None:
    policy = torch.tensor(pairs, dtype=torch.float64).T[:, :, None]
    logps, batch = record(policy, torch.zeros_like(policy))
    found = metrics_of(LOSSES["dpo"](beta=0.5), logps, batch)
    points = [1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0 for chosen, rejected in pairs]
    assert found["rewards/accuracies"] == pytest.approx(sum(points) / len(points))
    assert found["rewards/margins"] == pytest.approx(0.5 * sum(c - r for c, r in pairs) / len(pairs))


@given(pairs=st.lists(st.tuples(st.integers(-3, 0), st.sampled_from([0.2, 0.5, 0.9])), min_size=1, max_size=6))
def test_an_accuracy_is_over_the_pairs_whose_label_says_which_is_better(pairs: list[tuple[int, float]]) -> None:
    policy = torch.tensor([[margin for margin, _ in pairs], [-1] * len(pairs)], dtype=torch.float64)[:, :, None]
    logps, batch = record(policy, torch.zeros_like(policy))
    batch.confidence = torch.tensor([confidence for _, confidence in pairs], dtype=torch.float64)
    found = metrics_of(LOSSES["dpo"](), logps, batch)
    points = [
        0.5 if chosen == -1 else float((chosen > -1) == (confidence > 0.5)) for chosen, confidence in pairs if confidence != 0.5
    ]
    assert found.get("rewards/accuracies") == (pytest.approx(sum(points) / len(points)) if points else None)
    assert found["label_ties"] == pytest.approx(1 - len(points) / len(pairs))


def test_a_perfect_policy_is_right_always_where_rewards_have_two_levels() -> None:
    # Four candidates, best first, of which two and two tie: of 6 pairs 2 have no label.
    policy = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)[:, None, None].expand(4, 5, 1) - 2
    logps, batch = record(policy, torch.zeros_like(policy))
    batch.utilities = policy[:, :, 0]
    found = metrics_of(LOSSES["plackett_luce"](), logps, batch)
    assert (found["rewards/accuracies"], found["label_ties"]) == (1.0, pytest.approx(1 / 3))


def evaluated(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> dict[str, float]:
    state = having_seen(loss, logps, batch)
    return evaluation_metrics(loss, loss(logps, batch, state), logps, batch, state)


def test_an_evaluation_has_the_standard_error_of_every_mean() -> None:
    logps, batch = drawn(b=6)
    batch.prompt = torch.arange(6)[:, None]
    loss = LOSSES["dpo"]()
    found, rewards = evaluated(loss, logps, batch), loss.rewards(logps, batch)
    plain = metrics_of(loss, logps, batch)
    assert {name: value for name, value in found.items() if not name.endswith("_se")} == plain
    assert {f"{name}_se" for name in plain} == found.keys() - plain.keys()
    assert found["rewards/margins_se"] == pytest.approx(float((rewards[0] - rewards[1]).std()) / 6**0.5)
    assert found["loss_se"] == pytest.approx(float(loss(logps, batch).std()) / 6**0.5)


def test_pairs_of_one_prompt_are_one_cluster_of_an_evaluation() -> None:
    logps, batch = drawn(b=3)
    assert logps.reference is not None
    batch.prompt = torch.arange(3)[:, None]
    once = evaluated(LOSSES["dpo"](), logps, batch)
    again = Logps(logps.policy.repeat(1, 4, 1), logps.reference.repeat(1, 4, 1), logps.mask.repeat(1, 4, 1))
    wide = record(again.policy, again.reference, again.mask)[1]
    wide.prompt = torch.arange(3).repeat(4)[:, None]
    assert evaluated(LOSSES["dpo"](), again, wide) == pytest.approx(once, rel=1e-6)


def test_the_error_of_an_unpaired_margin_is_that_of_two_means() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, -1.0, -3.0], dtype=torch.float64) - 5
    logps, batch = record(values[None, :, None], torch.zeros(1, 5, 1, dtype=torch.float64))
    batch.desirable = torch.tensor([[True, True, True, False, False]])
    batch.prompt = torch.arange(5)[:, None]
    found = evaluated(LOSSES["sft"](), logps, batch)
    sides = [((side - side.mean()) ** 2).sum() / len(side) ** 2 for side in (values[:3], values[3:])]
    assert found["rewards/margins_se"] == pytest.approx(float((5 / 4 * sum(sides)) ** 0.5))


def test_what_a_loss_logs_of_a_whole_batch_has_no_error() -> None:
    logps, batch = drawn(b=4)
    batch.prompt = torch.arange(4)[:, None]
    batch.desirable = torch.tensor([[True, True, False, False]] * 2)
    loss = LOSSES["kto"]()
    logps.mismatched = Logps(logps.policy[:1], logps.reference[:1] if logps.reference is not None else None, logps.mask[:1])
    found = evaluated(loss, logps, batch)
    assert "baseline" in found
    assert "baseline_se" not in found
    assert "loss_se" in found


def test_a_policy_that_equals_its_reference_is_right_half_the_time(loss_class: type[PreferenceLoss]) -> None:
    if not loss_class.laws.ratios_only:
        pytest.skip("its rewards are not log-ratios")
    loss = loss_class()
    logps, batch = complete()
    state = having_seen(loss, logps, batch)
    logps = replace(logps, reference=logps.policy, kl=torch.zeros_like(logps.policy))
    found = metrics_of(loss, logps, batch, state)
    assert (found["rewards/accuracies"], found["rewards/margins"]) == (0.5, 0.0)


def test_the_rewards_are_those_of_the_loss(loss_class: type[PreferenceLoss]) -> None:
    loss = loss_class()
    logps, batch = complete()
    state = having_seen(loss, logps, batch)
    found = metrics_of(loss, logps, batch, state)
    rewards = loss.rewards(logps, batch, state)
    assert found["loss"] == pytest.approx(float(loss(logps, batch, state).mean()))
    assert found["rewards/chosen"] == pytest.approx(float(rewards[0].mean()))
    assert found["rewards/rejected"] == pytest.approx(float(rewards[1].mean()))
    assert found["rewards/margins"] == pytest.approx(found["rewards/chosen"] - found["rewards/rejected"])


def test_the_dpo_loss_follows_from_the_logged_margin_of_a_single_pair() -> None:
    logps, batch = drawn(b=1)
    found = metrics_of(LOSSES["dpo"](beta=2.0), logps, batch)
    assert found["loss"] == pytest.approx(float(torch.tensor(-found["rewards/margins"]).exp().log1p()), rel=1e-6)


def test_log_probabilities_and_lengths_are_those_of_the_real_tokens() -> None:
    logps, batch = drawn()
    found = metrics_of(LOSSES["dpo"](), logps, batch)
    for side, name in enumerate(("chosen", "rejected")):
        rows = [
            [float(x) for x, real in zip(row, mask, strict=True) if real]
            for row, mask in zip(logps.policy[side], logps.mask[side], strict=True)
        ]
        assert found[f"logps/{name}"] == pytest.approx(sum(map(sum, rows)) / len(rows))
        assert found[f"logps_mean/{name}"] == pytest.approx(sum(sum(row) / len(row) for row in rows) / len(rows))
        assert found[f"length/{name}"] == pytest.approx(sum(map(len, rows)) / len(rows))
        assert logps.reference is not None
        assert found[f"ref_logps/{name}"] == pytest.approx(float(logps.reference[side].sum()) / len(rows))


def test_a_single_candidate_has_no_margin_and_no_rejected_side() -> None:
    logps, batch = drawn(k=1)
    logps.reference = None
    found = metrics_of(LOSSES["sft"](), logps, batch)
    assert set(found) == {"loss", "rewards/chosen", "logps/chosen", "logps_mean/chosen", "length/chosen"}


def test_metrics_hold_no_graph() -> None:
    logps, batch = drawn()
    logps.policy.requires_grad_()
    loss = LOSSES["dpo"]()
    values = loss(logps, batch)
    assert values.requires_grad
    assert not any(value.requires_grad for value in preference_metrics(loss, values, logps, batch).values())


@given(cut=st.integers(1, 4), seed=st.integers(0, 5))
def test_the_tallies_of_parts_add_up_to_that_of_the_whole(cut: int, seed: int) -> None:
    logps, batch = drawn(seed=seed)
    loss = LOSSES["dpo"]()
    parts = []
    for rows in (torch.arange(cut), torch.arange(cut, 5)):
        assert logps.reference is not None
        part = Logps(logps.policy[:, rows], logps.reference[:, rows], logps.mask[:, rows])
        _, part_batch = record(part.policy, part.reference, part.mask)
        parts.append(preference_metrics(loss, loss(part, part_batch), part, part_batch))
    # Lengths and accuracies are float32.
    assert means(add_tallies(parts)) == pytest.approx(metrics_of(loss, logps, batch), rel=1e-6, abs=1e-7)


def unpaired(desirable: list[bool], rewards: list[float]) -> dict[str, float]:
    policy = torch.tensor(rewards, dtype=torch.float64)[None, :, None]
    logps, batch = record(policy, torch.zeros_like(policy))
    batch.desirable = torch.tensor([desirable])
    return metrics_of(LOSSES["sft"](), logps, batch)


def test_of_unpaired_feedback_the_desirable_completions_are_the_chosen_ones() -> None:
    found = unpaired([True, False, True, False], [-1.0, -2.0, -3.0, -6.0])
    assert found["rewards/chosen"] == pytest.approx(-2.0)
    assert found["rewards/rejected"] == pytest.approx(-4.0)
    assert found["rewards/margins"] == pytest.approx(2.0)
    assert "rewards/accuracies" not in found


def test_a_side_that_does_not_occur_is_not_logged() -> None:
    found = unpaired([True, True], [-1.0, -3.0])
    assert found["rewards/chosen"] == pytest.approx(-2.0)
    assert not any(name.endswith("/rejected") or name == "rewards/margins" for name in found)


def test_metrics_come_in_the_order_of_the_newest_part() -> None:
    meter = Meter(1)
    for names in (("tokens", "grad_norm", "loss"), ("loss", "grad_norm", "tokens")):  # the first as a checkpoint gives it back
        meter.add({name: count_once(torch.tensor(1.0)) for name in names})
    assert list(meter.read())[:2] == ["loss", "grad_norm"]
