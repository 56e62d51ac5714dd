"""One loss and its gradient from TRL's trainer and from the lab, on the same tokens and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from carried import Carried
from einops import rearrange
from torch import Tensor, nn
from transformers.trainer import Trainer as HFTrainer

from dpo_lab.losses import PreferenceLoss
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.training.compute_logps import compute_logps
from dpo_lab.training.metrics import means, preference_metrics
from dpo_lab.training.references import REFERENCES, Reference

# Everything here is float32: TRL's own kernel computes log-probabilities in that whatever the model is in. Gradients are
# compared as whole vectors, for single entries may cancel to nothing; of all comparisons the farthest is off by 5e-6.
CLOSE = 1e-5


class Logits(nn.Module):
    """A Hugging Face model as the lab takes one: tokens to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens).logits


def candidates(tokens: Tensor, present: Tensor, scored: Tensor, k: int = 2, **known: Any) -> CandidateBatch:
    """TRL's rows, chosen ones before rejected ones, prompt and completion in one. Padding may stand anywhere, so masks do."""
    by_candidate = rearrange(scored.bool(), "(k b) n -> k b n", k=k)
    b = by_candidate.shape[1]
    return CandidateBatch(
        prompt=tokens[:b],
        prompt_mask=present[:b].bool() & ~scored[:b].bool(),
        completions=rearrange(tokens, "(k b) n -> k b n", k=k),
        mask=by_candidate,
        ids=torch.arange(b),
        confidence=torch.ones(b),
        **known,
    )


def pairs(inputs: dict[str, Tensor]) -> CandidateBatch:
    """A batch of DPOTrainer."""
    return candidates(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])


@dataclass
class Found:
    """A loss, averaged as its trainer averages it, and its gradient with respect to all of the policy's weights."""

    loss: float
    gradient: Tensor

    @classmethod
    def of(cls, loss: Tensor, model: nn.Module) -> Found:
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        flat = [
            torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(gradients, model.parameters(), strict=True)
        ]
        return cls(loss.item(), torch.cat(flat))

    def __add__(self, other: Found) -> Found:
        return Found(self.loss + other.loss, self.gradient + other.gradient)

    def __rmul__(self, factor: float) -> Found:
        return Found(factor * self.loss, factor * self.gradient)

    def is_close_to(self, other: Found) -> bool:
        far = (self.gradient - other.gradient).norm()
        return abs(self.loss - other.loss) <= CLOSE * max(1, abs(other.loss)) and bool(far <= CLOSE * other.gradient.norm())


def batch_of(trainer: HFTrainer) -> dict[str, Tensor]:
    """A batch as the trainer's own tokenisation, collator and data loader make it."""
    return next(iter(trainer.get_train_dataloader()))


def theirs(trainer: HFTrainer, inputs: dict[str, Tensor]) -> Found:
    return Found.of(trainer.compute_loss(trainer.model, inputs), trainer.model)


def logps_of(trainer: Any, loss: PreferenceLoss, batch: CandidateBatch) -> Logps:
    """Policy and reference of the trainer, scored by the lab."""
    reference = None
    if loss.needs_reference:
        reference = Reference(REFERENCES["frozen"](), Logits(trainer.ref_model))
    return compute_logps(Logits(trainer.model), batch, loss, reference)


def ours(trainer: Any, loss: PreferenceLoss, batch: CandidateBatch, observed: bool = False) -> Found:
    """`observed`: the batch is first taken into the loss's state, as training does."""
    logps = logps_of(trainer, loss, batch)
    carried = Carried(loss)
    if observed:
        carried.observe(logps, batch)
    return Found.of(carried(logps, batch).mean(), trainer.model)


def metrics_of(trainer: Any, loss: PreferenceLoss, batch: CandidateBatch) -> dict[str, float]:
    logps, carried = logps_of(trainer, loss, batch), Carried(loss)
    if loss.couples_batch:
        carried.observe(logps, batch)
    return means(preference_metrics(loss, carried(logps, batch), logps, batch, carried.state))
