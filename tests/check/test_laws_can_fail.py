"""The laws themselves can fail: losses that each break one, and are caught by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.check.catalogue import DECLARED, UNIVERSAL
from dpo_lab.check.law import Law
from dpo_lab.check.search import Verdict, examine, violation
from dpo_lab.losses import Laws, PairLoss, PreferenceLoss
from dpo_lab.losses.base import NO_STATE, State
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps

BY_NAME = {law.name: law for law in UNIVERSAL}
each_promise = pytest.mark.parametrize("law", DECLARED.values(), ids=list(DECLARED))


@dataclass
class Silent(DPOLoss):
    """Keeps laws that it does not declare."""

    name: str = "silent"
    laws: ClassVar[Laws] = Laws(raises_margin=False)


@dataclass
class Boastful(PreferenceLoss):
    """Declares every law, keeps none."""

    name: str = "boastful"
    laws: ClassVar[Laws] = Laws(**dict.fromkeys(DECLARED, True))
    couples_batch: ClassVar[bool] = True

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        chosen, rejected = logps.policy_logps()
        return torch.sin(chosen) + chosen.mean() + rejected


@each_promise
def test_a_missing_declaration_is_noticed(law: Law) -> None:
    verdict, broken = examine(Silent, law)
    assert verdict is Verdict.violated
    assert broken is not None
    assert f"should declare {law.name}=True" in broken.message


@each_promise
def test_a_false_declaration_is_noticed(law: Law) -> None:
    verdict, broken = examine(Boastful, law, shrink=False)
    assert verdict is Verdict.violated
    assert broken is not None


def test_a_counterexample_is_as_small_as_it_gets() -> None:
    broken = violation(Boastful, DECLARED["nonnegative"])
    assert broken is not None
    assert broken.counterexample is not None
    loss, logps, batch = broken.counterexample
    assert loss == Boastful()
    assert len(batch) == 1
    assert logps.policy.shape[2] == 1


# One mutant of DPO for each law that every loss keeps


class WrongConstant(DPOLoss):
    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        return 0.7


class NoConstant(DPOLoss):
    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        return None


class WrongGradient(DPOLoss):
    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        exact = super().per_pair(diff)
        return exact.data + 2 * (exact - exact.data)  # detach() says of a term that it is meant as a constant


class LeaksIntoReference(DPOLoss):
    def logratios(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        assert logps.reference is not None
        return (logps.policy - logps.reference).sum(dim=2)


class ReadsNoReference(DPOLoss):
    def logratios(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        return logps.policy_logps()


class CountsPadding(DPOLoss):
    def logratios(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        return logps.logratios() / logps.policy.shape[2]


class MixesPrompts(DPOLoss):
    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        return super().values(logps, batch, state).roll(1) + torch.arange(len(batch))


class DividesByTheBatch(DPOLoss):
    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        return super().values(logps, batch, state) / len(batch)


class CentresRewards(DPOLoss):
    def rewards(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        rewards = super().rewards(logps, batch)
        return rewards - rewards.mean(dim=0)


class LogsSums(DPOLoss):
    def rewards(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        return self.beta * logps.logratios()


class CountsItsCalls(DPOLoss):
    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        self.calls = getattr(self, "calls", 0) + 1
        return super().values(logps, batch, state)


class Observes(DPOLoss):
    def observe(self, logps: Logps, batch: CandidateBatch, state: State) -> State:
        return {**state, "prompts": float(len(batch))}


class Overflows(DPOLoss):
    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return torch.log(1 + torch.exp(-self.beta * diff))


class HalvesPrecision(DPOLoss):
    def logratios(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        rounded = logps.policy.half().float() if logps.policy.dtype != torch.float32 else logps.policy * (1 + 1e-3)
        return super().logratios(replace(logps, policy=rounded.to(logps.policy.dtype)), batch)


class IgnoresMargin(DPOLoss):
    def pairs(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE):  # type: ignore[no-untyped-def]
        return DPOLoss(beta=self.beta, aggregate=self.options.aggregate).pairs(logps, batch, state)


class RefusesWithoutReason(DPOLoss):
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nll:
            raise ValueError("no")


class ClaimsToRefuse(DPOLoss):
    def __post_init__(self) -> None:
        pass

    unsupported: ClassVar[dict[str, str]] = {"nll": "it is no fun"}


class IgnoresConfidence(DPOLoss):
    reads_confidence: ClassVar[bool] = True

    def probability_right(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        return torch.ones_like(super().probability_right(logps, batch))


class NeedsMore(PairLoss):
    def per_sides(self, pair) -> Float[Tensor, "*s"]:  # type: ignore[no-untyped-def]
        return -F.logsigmoid(self.beta * pair.diff) + pair.chosen.kl


MUTANTS: list[tuple[type[PreferenceLoss], str]] = [
    (WrongConstant, "value_at_the_reference"),
    (NoConstant, "no_constant_is_left_out"),
    (WrongGradient, "gradient_of_finite_differences"),
    (LeaksIntoReference, "no_gradient_reaches_the_reference"),
    (ReadsNoReference, "no_reference_where_none_is_needed"),
    (CountsPadding, "padding_changes_nothing"),
    (MixesPrompts, "order_of_prompts"),
    (DividesByTheBatch, "parts_sum_to_the_whole"),
    (CentresRewards, "rewards_are_per_candidate"),
    (LogsSums, "rewards_are_what_is_compared"),
    (CountsItsCalls, "only_observing_changes_state"),
    (Observes, "only_observing_changes_state"),
    (Overflows, "finite_at_extremes"),
    (HalvesPrecision, "half_precision_is_for_storage"),
    (IgnoresMargin, "a_setting_works_or_is_refused"),
    (RefusesWithoutReason, "a_setting_works_or_is_refused"),
    (ClaimsToRefuse, "a_setting_works_or_is_refused"),
    (IgnoresConfidence, "confidence_is_read_as_declared"),
    (NeedsMore, "needs_are_declared"),
]


def as_loss(mutant: type[PreferenceLoss]) -> type[PreferenceLoss]:
    """The mutant as a dataclass with a name."""
    fields = {"name": mutant.__name__, "__annotations__": {"name": "str"}, "__module__": __name__}
    if mutant is LogsSums:
        fields |= {"aggregate": Aggregate.mean, "__annotations__": {"name": "str", "aggregate": "Aggregate"}}  # type: ignore[dict-item]
    return dataclass(type(mutant.__name__, (mutant,), fields))


@pytest.mark.parametrize(("mutant", "name"), MUTANTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_loss_that_breaks_a_law_is_caught_by_it(mutant: type[PreferenceLoss], name: str) -> None:
    assert violation(DPOLoss, BY_NAME[name], examples=10) is None
    assert violation(as_loss(mutant), BY_NAME[name], examples=100, shrink=False) is not None


def test_every_law_that_all_losses_keep_has_a_mutant() -> None:
    assert {name for _, name in MUTANTS} == set(BY_NAME)
