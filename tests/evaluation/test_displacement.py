"""Displacement: each chosen completion against itself at the first evaluation."""

from __future__ import annotations

import pytest
import torch

from dpo_lab.evaluation.displacement import Displacement, resumed
from dpo_lab.records import CandidateBatch, Logps


def record(k: int, b: int, seed: int) -> tuple[Logps, CandidateBatch]:
    policy = torch.randn(k, b, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = torch.ones(k, b, 2, dtype=torch.bool)
    batch = CandidateBatch(torch.arange(b)[:, None], mask[0, :, :1], mask.long(), mask, torch.arange(b), torch.ones(b))
    return Logps(policy, None, mask), batch


def mean_of_chosen(logps: Logps) -> dict[str, float]:
    return {"logps/chosen": float(logps.policy_logps()[0].mean())}


def test_the_error_is_that_of_each_completion_against_itself() -> None:
    (then, pairs), (now, _) = record(2, 30, 0), record(2, 30, 1)
    now.policy = then.policy + 0.01 * now.policy
    tracked = Displacement(pairs)
    assert tracked.since_start(then, mean_of_chosen(then)) == {"displacement/chosen": 0.0, "displacement/chosen_se": 0.0}
    found = tracked.since_start(now, mean_of_chosen(now))
    moved = (now.policy - then.policy)[0].sum(dim=1)
    assert found["displacement/chosen"] == pytest.approx(float(moved.mean()))
    assert found["displacement/chosen_se"] == pytest.approx(float(moved.std()) / 30**0.5)


def test_a_resumed_run_finds_what_the_uninterrupted_one_does() -> None:
    (then, pairs), (now, _) = record(3, 8, 2), record(3, 8, 3)
    whole = Displacement(pairs)
    whole.since_start(then, mean_of_chosen(then))
    again = resumed(pairs, mean_of_chosen(then), lambda batch: then)
    assert again.since_start(now, mean_of_chosen(now)) == whole.since_start(now, mean_of_chosen(now))


def test_of_unpaired_feedback_the_desirable_completions_count() -> None:
    (then, pairs), (now, _) = record(1, 6, 4), record(1, 6, 5)
    pairs.desirable = torch.tensor([[True, True, True, False, False, False]])
    tracked = Displacement(pairs, 0.0, then.policy_logps())
    moved = (now.policy - then.policy)[0, :3].sum(dim=1)
    found = tracked.since_start(now, {"logps/chosen": 1.0})
    assert found["displacement/chosen_se"] == pytest.approx(float((6 / 5 * ((moved - moved.mean()) ** 2).sum()) ** 0.5 / 3))


def test_nothing_is_displaced_where_nothing_is_chosen() -> None:
    then, pairs = record(1, 4, 6)
    assert Displacement(pairs).since_start(then, {}) == {}
    assert resumed(pairs, {}, lambda batch: then).start is None
