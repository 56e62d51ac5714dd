"""Kahneman-Tversky optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws
from dpo_lab.losses.base import NO_STATE, State, logged
from dpo_lab.losses.unpaired import UnpairedLoss
from dpo_lab.records import CandidateBatch, Logps


@LOSSES.register
@dataclass
class KTOLoss(UnpairedLoss):
    """desirable_weight * (1 - sigmoid(beta * (log-ratio - z))) of a desirable completion, undesirable_weight * (1 - sigmoid(
    beta * (z - log-ratio))) of another. Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7.

    Thumbs up or down on single completions, also many more of one kind. z is max(0, mean log-ratio of the step's mismatched
    completions), a constant for the gradient. Over what the mean is taken differs: the authors' HALOs leaves out log-ratios of
    exactly 0 (while policy and reference are equal that is 0 / 0) and TRL takes each micro-batch by itself; here it is all of
    the optimiser step. Evaluations use the last step's z.
    """

    name: str = "kto"
    desirable_weight: float = 1.0
    """Where one kind of feedback is rare, weigh it so that both kinds count 1:1 to 4:3 in total (the authors' advice)."""
    undesirable_weight: float = 1.0
    """The same of undesirable completions."""

    laws = Laws.of("ratios_only scaling monotone nonnegative")
    ranges: ClassVar = {"desirable_weight": "[0, inf)", "undesirable_weight": "[0, inf)"}
    needs_mismatched = True
    couples_batch = True

    def initial_state(self) -> State:
        return {"baseline": 0.0}

    def observe(self, logps: Logps, batch: CandidateBatch, state: State) -> State:
        assert logps.mismatched is not None, "these Logps were made without mismatched completions"
        return {"baseline": self.logratios(logps.mismatched, batch).detach().double().mean().clamp(min=0)}

    def baseline(self, state: State) -> float | Float[Tensor, ""]:
        return self.beta * state["baseline"]

    def per_desirable(self, rewards: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return self.desirable_weight * torch.sigmoid(-rewards)

    def per_undesirable(self, rewards: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return self.undesirable_weight * torch.sigmoid(rewards)

    def formula_at_reference(self, num_candidates: int) -> float | None:
        if num_candidates == 1 and self.desirable_weight != self.undesirable_weight:
            return None
        return (self.desirable_weight + self.undesirable_weight) / 4

    def extra_metrics(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Float[Tensor, ""]]:
        """z, in nats."""
        return {"baseline": logged(state["baseline"], batch.confidence)}
