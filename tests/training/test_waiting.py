"""Between two log steps nothing of a training step reads a number from the device, which would make it wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trainers import comparisons, trainer, transformer

from dpo_lab.losses import LOSSES
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring import logps
from dpo_lab.scoring.layouts import ALL_LAYOUTS, Layout
from dpo_lab.scoring.layouts.branches import BranchesPlan
from dpo_lab.scoring.layouts.packed import PackedPlan
from dpo_lab.scoring.layouts.rows import RowsPlan
from dpo_lab.scoring.logps import Scoring
from dpo_lab.training.compute import Compute
from dpo_lab.training.result import Status
from dpo_lab.training.trainer import Hooks

READS = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default", "aten.equal.default"}


class Reads(TorchDispatchMode):
    """Counts, by step, the operations whose result the host has to wait for. On a CPU they look the same."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.on_host, self.found = 0, False, Counter[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masked = func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        if not self.on_host and (str(func) in READS or masked):
            self.found[self.step] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def host(self) -> Iterator[None]:
        """What is computed inside stays in main memory."""
        before, self.on_host = self.on_host, True
        yield
        self.on_host = before

    def hosted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            with self.host():
                return function(*given, **named)

        return wrapped


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
@pytest.mark.parametrize("loss", ["dpo", "ipo", "simpo", "tdpo2", "aot"])
def test_only_log_steps_read_from_the_device(loss: str, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads()
    monkeypatch.setattr(Compute, "reading_waits", True)
    monkeypatch.setattr(logps, "plan_batch", reads.hosted(logps.plan_batch))
    monkeypatch.setattr(CandidateBatch, "select", reads.hosted(CandidateBatch.select))
    for plan in (RowsPlan, BranchesPlan, PackedPlan):
        monkeypatch.setattr(plan, "passes", reads.hosted(plan.passes))
    data = comparisons(b=8)
    data.prompt_mask[:, :2] = True
    fit = trainer(
        transformer(),
        data.with_mismatched() if LOSSES[loss]().needs_mismatched else data,
        loss=LOSSES[loss](),
        optimizer="adamw",
        log_every=3,
        max_steps=7,
        clip=1.0,
        preflight=False,
        hooks=Hooks(log=lambda step, metrics: None),
    )
    fit.scoring = Scoring([layout])
    rows = fit._rows

    def begun(step: int) -> torch.Tensor:
        reads.step = step + 1
        return rows(step)

    monkeypatch.setattr(fit, "_rows", begun)
    with reads:
        assert fit.fit().status is Status.done
    # 1 compares the policy with its reference; 3, 6 and 7 log.
    assert {step for step, count in reads.found.items() if count} <= {0, 1, 3, 6, 7}
    assert reads.found[3] <= 2


@pytest.mark.parametrize("waits", [False, True])
def test_a_run_that_diverges_is_ended_with_the_right_step_however_late_that_is_read(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Compute, "reading_waits", waits)
    policy, logged = transformer(), list[int]()
    hooks = Hooks(log=lambda step, metrics: logged.append(step))
    fit = trainer(policy, comparisons(b=8), max_steps=9, log_every=4, hooks=hooks, preflight=False)
    rows, begun = fit._rows, list[int]()

    def spoiled(step: int) -> torch.Tensor:
        begun.append(step + 1)
        if step == 5:
            with torch.no_grad():
                next(policy.parameters()).fill_(torch.nan)
        return rows(step)

    monkeypatch.setattr(fit, "_rows", spoiled)
    outcome = fit.fit()
    assert (outcome.status, outcome.steps, logged) == (Status.diverged, 5, [4])
    assert outcome.reason.startswith("loss became nan at step 6, on the pairs with ids [")
    assert begun[-1] == (8 if waits else 6)
