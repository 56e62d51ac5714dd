"""The gradient of a step does not depend on how the step is cut, whatever the loss reads of the other prompts."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from coupled import Coupled, prepared
from strategies import numbers_of, tiny_transformer
from torch import Tensor, nn

from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.models.copies import freeze
from dpo_lab.records import Logps
from dpo_lab.scoring.logps import Scoring
from dpo_lab.training import objective as module
from dpo_lab.training.compute import Compute
from dpo_lab.training.compute_logps import compute_logps
from dpo_lab.training.metrics import means
from dpo_lab.training.objective import Objective
from dpo_lab.training.references import REFERENCES, Reference


def stepped(
    loss: PreferenceLoss, micro_batch_size: int | None, policy: nn.Module, tokens: int | None = None, workers: int = 1
) -> tuple[list[Tensor], dict[str, float]]:
    reference = Reference(REFERENCES["frozen"](), freeze(tiny_transformer(seed=1)))
    scoring = Scoring(micro_batch_size=micro_batch_size, micro_batch_tokens=tokens)
    objective = Objective(policy, loss, reference, Compute(device="cpu", workers=workers), scoring)
    policy.zero_grad()
    metrics = means(objective.fill_gradients(prepared(loss)).metrics)
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None], metrics | numbers_of(objective.loss_state)


def compare(loss: PreferenceLoss, policy: nn.Module) -> None:
    policy.eval()
    whole, metrics = stepped(loss, None, policy)
    assert any(gradient.abs().max() > 1e-6 for gradient in whole)
    ways = ((1, None, 1), (2, None, 1), (4, None, 1), (None, 1, 1), (None, 24, 1), (None, None, 2), (2, None, 2), (None, 24, 3))
    for way in ways:
        size, tokens, workers = way
        parts, of_parts = stepped(loss, size, policy, tokens, workers)
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-11)
        assert of_parts == pytest.approx(metrics, rel=1e-6)


def test_micro_batches_change_no_gradient_and_no_metric(loss_class: type[PreferenceLoss]) -> None:
    compare(loss_class(), tiny_transformer(seed=0))


def test_micro_batches_change_nothing_of_a_loss_that_couples_everything() -> None:
    compare(Coupled(), tiny_transformer(seed=0))


def test_workers_run_at_the_same_time_and_their_gradients_are_added_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, late = threading.Barrier(2), itertools.count()

    def together(*arguments: Any) -> Logps:
        meeting.wait(timeout=20)  # passes only where two are under way
        if next(late) % 3 == 0:  # now one is first, now the other
            time.sleep(0.005)
        return compute_logps(*arguments)

    monkeypatch.setattr(module, "compute_logps", together)
    policy = tiny_transformer(seed=0).eval()
    found = [stepped(LOSSES["dpo"](), None, policy, workers=2)[0] for _ in range(6)]
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(again, found[0], strict=True))


def test_a_worker_that_fails_fails_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> Logps:
        raise ValueError("no memory")

    monkeypatch.setattr(module, "compute_logps", failing)
    with pytest.raises(ValueError, match="no memory"):
        stepped(LOSSES["dpo"](), 1, tiny_transformer(seed=0).eval(), workers=2)


def test_a_coupled_loss_that_does_not_say_so_does_depend_on_the_micro_batch() -> None:
    @dataclass
    class Silent(Coupled):
        name: str = "silent"
        couples_batch: ClassVar[bool] = False

    with pytest.raises(AssertionError):
        compare(Silent(), tiny_transformer(seed=0))


def test_a_token_budget_is_a_bound_on_what_a_pass_reads() -> None:
    policy, read = tiny_transformer(seed=0).eval(), []
    policy.net.register_forward_pre_hook(lambda module, given: read.append(given[0].numel()))
    stepped(LOSSES["dpo"](), None, policy)
    whole = max(read)
    read.clear()
    stepped(LOSSES["dpo"](), None, policy, 24)
    assert max(read) <= 24 < whole
    read.clear()
    stepped(LOSSES["dpo"](), None, policy, 48, workers=2)
    assert max(read) <= 24, "workers share the budget"


def test_a_micro_batch_bounds_what_an_evaluation_reads_too() -> None:
    policy, read = tiny_transformer(seed=0).eval(), []
    policy.net.register_forward_pre_hook(lambda module, given: read.append(given[0].numel()))
    largest = {}
    for size, tokens in ((None, None), (None, 24), (1, None)):
        scoring = Scoring(micro_batch_size=size, micro_batch_tokens=tokens)
        objective = Objective(policy, LOSSES["sft"](), None, Compute(device="cpu", workers=1), scoring)
        read.clear()
        objective.evaluate(prepared(LOSSES["sft"]()))
        largest[size, tokens] = max(read)
        read.clear()
        objective.rehearse(prepared(LOSSES["sft"]()))
        assert max(read) == largest[size, tokens]
        assert len(read) == 1, "the largest pass and no other"
    assert largest[None, 24] <= 24 < largest[None, None]
    assert largest[1, None] < largest[None, None]


def test_the_second_pass_draws_the_same_dropout_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def watched(*arguments: Any) -> Logps:
        logps = compute_logps(*arguments)
        seen.append(logps.policy.detach())
        return logps

    monkeypatch.setattr(module, "compute_logps", watched)
    policy = tiny_transformer(seed=0, dropout=0.3).train()
    stepped(Coupled(), 2, policy)
    first, second = seen[:3], seen[3:]
    assert len(first) == len(second)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    before = [logps.clone() for logps in seen]
    stepped(Coupled(), 2, policy)
    assert not torch.equal(seen[6], before[0]), "dropout is on"


def test_with_dropout_micro_batches_run_one_after_the_other_so_that_draws_repeat() -> None:
    policy = tiny_transformer(seed=0, dropout=0.3).train()
    objective = Objective(policy, LOSSES["dpo"](), None, Compute(device="cpu", workers=2))
    assert objective.workers == 1
    policy.eval()
    assert objective.workers == 2


def test_evaluation_sees_all_pairs_at_once_without_dropout_and_changes_no_state() -> None:
    policy = tiny_transformer(seed=0, dropout=0.3).train()
    loss, state = Coupled(), {"gap": 0.25, "calls": 7.0}
    reference = Reference(REFERENCES["frozen"](), freeze(tiny_transformer(seed=1)))
    objective = Objective(policy, loss, reference, Compute(device="cpu"), loss_state=state)
    found: list[dict[str, Any]] = []
    for rows, tokens in ((None, None), (2, None), (1, None), (None, 9)):
        objective.scoring = Scoring(micro_batch_size=rows, micro_batch_tokens=tokens)
        found.append(objective.evaluate(prepared(loss)))
    assert found[0] == pytest.approx(found[3], rel=1e-9)
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0] == pytest.approx(found[2], rel=1e-9)
    assert objective.loss_state == {"gap": 0.25, "calls": 7.0}
    assert policy.training
