"""Law 21: an interrupted training that goes on ends bit for bit where one that was never interrupted ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from dpo_lab.losses import LOSSES
from dpo_lab.models.copies import freeze
from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.records import CandidateBatch
from dpo_lab.training.compute import Compute
from dpo_lab.training.optimizers import OPTIMIZERS
from dpo_lab.training.references import REFERENCES, Reference
from dpo_lab.training.result import TrainResult
from dpo_lab.training.schedules import SCHEDULES
from dpo_lab.training.settings import TrainerSettings
from dpo_lab.training.trainer import Hooks, Trainer

CASES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw"},
    "muon": {"optimizer": "muon"},
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "a loss with a state": {"loss": "alpha_dpo"},
    "a reference that is synced": {"reference": REFERENCES["synced"](sync_every=3)},
    "a reference that averages": {"reference": REFERENCES["ema"](update_every=1)},
    "patience": {"patience": 2},
}
SPEEDS = {"pairs_per_s", "tokens_per_s"}


class KilledError(Exception):
    """In place of a kill."""


@dataclass
class Attempt:
    """A training, what it logged, and what it left when it was killed after its checkpoint of step `until`."""

    case: dict[str, Any]
    until: int | None = None
    left: tuple[bytes, bytes] | None = None
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    saved: list[tuple[str, int]] = field(default_factory=list)

    def run(self, resumed: tuple[bytes, bytes] | None = None) -> tuple[TrainResult | None, dict[str, Tensor]]:
        case = {"optimizer": "adamw", "loss": "dpo", "reference": REFERENCES["frozen"](), "patience": None, **self.case}
        policy, model = network(), freeze(network())
        if resumed is not None:
            policy.load_state_dict(load(resumed[0]))
        momentum = {"momentum": case["momentum"]} if "momentum" in case else {}

        def log(step: int, metrics: Mapping[str, float]) -> None:
            self.logged.append((step, {name: value for name, value in metrics.items() if name not in SPEEDS}))

        def evaluate(step: int) -> Mapping[str, float]:
            return {"loss": abs(step - 5.0)}

        def checkpoint(kind: str, step: int, metrics: Mapping[str, float]) -> None:
            self.saved.append((kind, step))
            if (kind, step) == ("last", self.until):
                self.left = save(policy.state_dict()), save(trainer.state())
                raise KilledError

        trainer = Trainer(
            policy=policy,
            loss=LOSSES[case["loss"]](beta=0.5),
            reference=Reference(case["reference"], model),
            data=comparisons(),
            optimizers=OPTIMIZERS[case["optimizer"]](lr=0.05, **momentum).build(policy),
            schedule=SCHEDULES["linear"](warmup=0.2),
            settings=TrainerSettings(
                batch_size=4, max_steps=14, log_every=3, eval_every=4, dropout=True, patience=case["patience"]
            ),
            compute=Compute(device="cpu"),
            seed=3,
            hooks=Hooks(log, evaluate, checkpoint),
            resume=None if resumed is None else load(resumed[1]),
        )
        try:
            return trainer.fit(), policy.state_dict()
        except KilledError:
            return None, {}


def network() -> nn.Module:
    torch.manual_seed(0)
    return TransformerSpec(dim=8, depth=1, heads=1, context=8, dropout=0.3).build(7)


def comparisons() -> CandidateBatch:
    draw = torch.Generator().manual_seed(0)
    return CandidateBatch(
        prompt=torch.randint(7, (6, 2), generator=draw),
        prompt_mask=torch.ones(6, 2, dtype=torch.bool),
        completions=torch.randint(7, (2, 6, 3), generator=draw),
        mask=torch.arange(3) < torch.randint(1, 4, (2, 6, 1), generator=draw),
        ids=torch.arange(6),
        confidence=torch.ones(6),
    )


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(case: str) -> None:
    through = Attempt(CASES[case])
    outcome, expected = through.run()
    assert outcome is not None
    last_steps = [step for kind, step in through.saved if kind == "last"]
    assert len(last_steps) >= 3
    for killed_after in last_steps[:-1]:
        first = Attempt(CASES[case], until=killed_after)
        assert first.run()[0] is None
        again = Attempt(CASES[case])
        ended, found = again.run(first.left)
        assert ended == outcome
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert again.logged == [row for row in through.logged if row[0] > killed_after]
        assert again.saved == through.saved[through.saved.index(("last", killed_after)) + 1 :]


def test_a_training_that_had_ended_is_not_gone_on_with() -> None:
    for case in ({}, {"patience": 2}):
        first = Attempt(case)
        outcome, _ = first.run()
        assert outcome is not None
        ended = Attempt(case, until=outcome.steps)
        ended.run()
        again = Attempt(case)
        finished, _ = again.run(ended.left)
        assert finished is not None
        assert finished == outcome, "the reason included"
        assert again.logged == []
