"""What a loss reads of whole next-token distributions, against loops over single prefixes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from batches import gappy_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import batches, tiny_transformer
from torch import Tensor, nn

from dpo_lab.losses import PairLoss
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.options import Weighting
from dpo_lab.models.copies import freeze
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.logps import score
from dpo_lab.training import compute_logps as compute_logps_module
from dpo_lab.training.compute_logps import compute_logps, log_collision
from dpo_lab.training.references import REFERENCES, Reference


@dataclass
class ReadsKL(PairLoss):
    name: str = "reads kl"
    needs_kl: ClassVar[bool] = True


@dataclass
class ReadsMismatched(PairLoss):
    name: str = "reads mismatched"
    needs_mismatched: ClassVar[bool] = True


PLAIN, KL, COLLISION = PairLoss(name="plain"), ReadsKL(), DPOLoss(weighting=Weighting.wpo)


def frozen(seed: int = 1) -> Reference:
    return Reference(REFERENCES["frozen"](), freeze(tiny_transformer(seed=seed)))


def distributions(model: nn.Module, batch: CandidateBatch) -> dict[tuple[int, int, int], list[float]]:
    """Next-token log-probabilities at each completion token, each prefix alone through the model."""
    found = {}
    for c, b, i in batch.mask.nonzero().tolist():
        before = batch.completions[c, b, :i][batch.mask[c, b, :i]]
        prefix = torch.cat((batch.prompt[b][batch.prompt_mask[b]], before))
        with torch.no_grad():
            found[c, b, i] = model(prefix[None])[0, -1].double().log_softmax(dim=-1).tolist()
    return found


@settings(max_examples=15)
@given(batches())
def test_kl_and_collision_are_those_of_the_distributions_behind_each_token(batch: CandidateBatch) -> None:
    policy, reference = tiny_transformer(seed=0), frozen()
    ours, theirs = distributions(policy, batch), distributions(reference.model, batch)
    logps = compute_logps(policy, batch, KL, reference)
    assert logps.kl is not None
    assert logps.collision is not None
    for where in ours:
        kl = sum(math.exp(r) * (r - p) for p, r in zip(ours[where], theirs[where], strict=True))
        collision = math.log(sum(math.exp(2 * p) for p in ours[where]))
        assert logps.kl[where].item() == pytest.approx(kl, rel=1e-9, abs=1e-12)
        assert logps.collision[where].item() == pytest.approx(collision, rel=1e-9, abs=1e-12)
    for found in (logps.kl, logps.collision):
        assert not found[~batch.mask].any()
    alone = compute_logps(policy, batch, COLLISION, reference)
    torch.testing.assert_close(alone.collision, logps.collision, rtol=1e-10, atol=1e-10)


@settings(max_examples=15)
@given(batches(), st.sampled_from([KL, COLLISION]))
def test_whatever_else_is_measured_the_log_probabilities_are_the_same(batch: CandidateBatch, loss: PairLoss) -> None:
    policy, reference = tiny_transformer(seed=0), frozen()
    plain, found = compute_logps(policy, batch, PLAIN, reference), compute_logps(policy, batch, loss, reference)
    torch.testing.assert_close(found.policy, plain.policy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.reference, plain.reference, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(plain.policy, score(policy, batch), rtol=0, atol=0)


def gradients(policy: nn.Module, total: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(total, list(policy.parameters())))


@pytest.mark.parametrize("portion", [1, 3, 10**6])
def test_the_portion_changes_no_value_and_no_gradient(portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, reference, batch = tiny_transformer(seed=0), frozen(), gappy_pairs()
    assert reference.model is not policy

    def found() -> tuple[Tensor, list[Tensor]]:
        logps = compute_logps(policy, batch, KL, reference)
        assert logps.kl is not None
        total = (logps.policy * 0.3 + logps.kl * 0.7).sum()
        return total.detach(), gradients(policy, total)

    whole = found()
    monkeypatch.setattr(compute_logps_module, "POSITIONS_AT_ONCE", portion)
    torch.testing.assert_close(found(), whole, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_the_kl_is_policy_minus_reference() -> None:
    """d KL(reference || policy) / d logits = p_policy - p_reference, at the positions of completion tokens only."""
    batch = gappy_pairs()
    policy, reference = Table(0), Reference(REFERENCES["frozen"](), freeze(Table(1)))
    logps = compute_logps(policy, batch, KL, reference)
    assert logps.kl is not None
    (gradient,) = gradients(policy, logps.kl.sum())
    expected = torch.zeros_like(gradient)
    for c, b, i in batch.mask.nonzero().tolist():
        before = batch.completions[c, b, :i][batch.mask[c, b, :i]]
        last = torch.cat((batch.prompt[b][batch.prompt_mask[b]], before))[-1]
        expected[last] += (policy.logits[last].softmax(-1) - reference.model.logits[last].softmax(-1)).detach()
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_nothing_measured_of_the_reference_has_a_gradient_and_collision_has_none() -> None:
    policy, reference = tiny_transformer(seed=0), Reference(REFERENCES["frozen"](), tiny_transformer(seed=1))
    for loss in (KL, COLLISION):
        logps = compute_logps(policy, gappy_pairs(), loss, reference)
        assert logps.reference is not None
        assert logps.collision is not None
        assert not logps.reference.requires_grad
        assert not logps.collision.requires_grad
        assert logps.policy.requires_grad
    assert compute_logps(policy, gappy_pairs(), KL, reference).kl.requires_grad  # type: ignore[union-attr]


def test_mismatched_completions_are_scored_without_gradient_and_only_where_a_loss_asks() -> None:
    policy, reference = tiny_transformer(seed=0), frozen()
    batch = gappy_pairs().with_mismatched()
    assert compute_logps(policy, batch, PLAIN, reference).mismatched is None
    found = compute_logps(policy, batch, ReadsMismatched(), reference).mismatched
    assert found is not None
    assert batch.mismatched is not None
    torch.testing.assert_close(found.policy, score(policy, batch.mismatched).detach(), rtol=0, atol=0)
    torch.testing.assert_close(found.reference, score(reference.model, batch.mismatched).detach(), rtol=0, atol=0)
    assert not found.policy.requires_grad


def test_each_model_runs_once() -> None:
    calls: list[str] = []

    class Counted(nn.Module):
        def __init__(self, name: str, model: nn.Module) -> None:
            super().__init__()
            self.name, self.model = name, model

        def forward(self, tokens: Tensor) -> Tensor:
            calls.append(self.name)
            return self.model(tokens)

    reference = Reference(REFERENCES["frozen"](), Counted("reference", tiny_transformer(seed=1)))
    for loss in (PLAIN, KL, COLLISION):
        calls.clear()
        compute_logps(Counted("policy", tiny_transformer(seed=0)), gappy_pairs(), loss, reference)
        assert sorted(calls) == ["policy", "reference"]


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_the_log_collision_is_exact_for_flat_and_for_sharp_distributions(scale: float) -> None:
    logits = scale * torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -1.0, -2.0, -3.0]], dtype=torch.float64)
    assert log_collision(logits)[0].item() == pytest.approx(-math.log(4))
    assert log_collision(logits)[1].item() == pytest.approx(2 * torch.log_softmax(logits[1], -1).mul(2).logsumexp(0).item() / 2)
    assert (log_collision(logits) <= 1e-12).all()


class Table(nn.Module):
    """Next-token logits for each token before."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(torch.randn(5, 5, dtype=torch.float64, generator=draw))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits[tokens]
