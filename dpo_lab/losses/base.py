"""What a preference loss is, and the laws it can declare."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.aggregates import mean_weights, token_weights
from dpo_lab.losses.divergences import Divergence, link
from dpo_lab.losses.options import Margin, Weighting
from dpo_lab.records import Aggregate, CandidateBatch, Logps
from dpo_lab.registry import Registry


@dataclass(frozen=True)
class Laws:
    """What a loss with its default settings promises of itself, beyond what every loss must keep.

    `python -m dpo_lab.check` tests every promise, and that none is missing. x is the loss's own reward margin.
    """

    shift_invariant: bool = False
    """One constant added to all log-probabilities of a prompt, under the policy or under the reference, changes nothing."""
    ratios_only: bool = False
    """One constant added to the log-probability of one candidate under policy and reference both changes nothing."""
    scaling: bool = False
    """beta and the log-probabilities enter as their product only."""
    monotone: bool = False
    """Never rises as the chosen completion becomes more likely, or the rejected one less."""
    convex: bool = False
    """In the log-probability of each candidate."""
    swap_linear: bool = False
    """L(chosen, rejected) - L(rejected, chosen) is proportional to the difference of the two rewards."""
    raises_margin: bool = True
    """The first step down the gradient, while the policy equals the reference, lowers no prompt's margin."""
    rowwise: bool = False
    """A prompt's value does not depend on the other prompts of the batch."""
    nonnegative: bool = False
    """Never below 0."""


State = dict[str, float | Tensor]
"""Numbers that a loss carries from step to step, by name."""


@dataclass
class PreferenceLoss:
    """One value per prompt from the log-probabilities of its candidates.

    Values are not averaged here: who trains divides by the number of prompts in the whole step, so that accumulation over
    micro-batches and ranks changes nothing.

    What the loss carries from step to step is in `state` (numbers by name), which checkpoints keep. Settings that make no
    sense for a loss are in its `refuses`, with the reason.
    """

    name: str
    beta: float = 0.1
    """Strength of the pull towards the reference. Scales with `aggregate`: about .01-.5 for sums, 2-10 for means."""
    aggregate: Aggregate = Aggregate.sum
    shared_rest: float = 0.5
    """What a token counts beyond the shortest candidate's length, with aggregate=shared; in [0, 1]."""
    divergence: Divergence = Divergence.reverse_kl
    divergence_alpha: float = 0.5
    """Of divergence=alpha: towards 0 it is the reverse KL, at 1 the forward KL; in (0, 1]."""
    label_smoothing: float = 0.0
    """Probability that a label is wrong, in [0, .5)."""
    weighting: Weighting = Weighting.none
    margin: Margin = field(default_factory=Margin)
    nll: float = 0.0
    """Times the chosen completion's mean negative log-probability per token, added to the loss."""

    laws: ClassVar[Laws] = Laws()
    needs_reference: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = False
    """Reads the rewards of the candidates."""
    needs_kl: ClassVar[bool] = False
    """Reads `Logps.kl`, for which policy and reference must be run side by side."""
    needs_mismatched: ClassVar[bool] = False
    """Reads the log-ratios of completions that belong to other prompts."""
    couples_batch: ClassVar[bool] = False
    """A value depends on the other prompts of the step, which must then all be there in one call."""
    reads_confidence: ClassVar[bool] = True
    """False: takes the order of the candidates as certain."""
    min_candidates: ClassVar[int] = 2
    max_candidates: ClassVar[int | None] = None
    refuses: ClassVar[Mapping[str, str]] = {}
    """Shared settings that this loss cannot use, and why."""

    def __post_init__(self) -> None:
        self.state: State = self.initial_state()
        if not 0 < self.beta < math.inf:
            raise ValueError(f"loss.beta must be > 0 and finite, got {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"loss.label_smoothing must be in [0, 0.5), got {self.label_smoothing}")
        if not 0 <= self.shared_rest <= 1:
            raise ValueError(f"loss.shared_rest must be in [0, 1], got {self.shared_rest}")
        if not 0 < self.divergence_alpha <= 1:
            raise ValueError(f"loss.divergence_alpha must be in (0, 1], got {self.divergence_alpha}")
        if self.shared_rest != default_of(type(self), "shared_rest") and self.aggregate is not Aggregate.shared:
            raise ValueError(f"loss.shared_rest is for loss.aggregate=shared, got it with {self.aggregate.value}")
        alpha = default_of(type(self), "divergence_alpha")
        if self.divergence_alpha != alpha and self.divergence is not Divergence.alpha:
            raise ValueError(f"loss.divergence_alpha is for loss.divergence=alpha, got it with {self.divergence.value}")
        if self.margin.score and self.label_smoothing:
            raise ValueError("loss.label_smoothing cannot be used with loss.margin.score: that is a margin of certain pairs")
        if not 0 <= self.nll < math.inf:
            raise ValueError(f"loss.nll must be >= 0 and finite, got {self.nll}")
        if not self.needs_reference and self.divergence is not Divergence.reverse_kl:
            raise ValueError(f"loss.divergence cannot be used with loss={self.name}: it has no reference to diverge from")
        for setting in fields(self):
            if setting.name in self.refuses and getattr(self, setting.name) != default_of(type(self), setting.name):
                raise ValueError(f"loss.{setting.name} cannot be used with loss={self.name}: {self.refuses[setting.name]}")

    def __call__(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        values = self.values(logps, batch)
        if self.nll:
            values = values - self.nll * logps.policy_logps(mean_weights(logps.mask))[0]
        return values

    def values(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        """The loss without the `nll` term."""
        raise NotImplementedError

    def rewards(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        """The implicit reward that this loss compares, of each candidate: what is logged as rewards/*."""
        return self.beta * self.compared(logps, batch)

    def compared(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        """The rewards over beta: log-ratios under the divergence's link; log-probabilities where there is no reference."""
        weights = self.token_weights(logps, batch)
        if not self.needs_reference:
            return logps.policy_logps(weights)
        return link(logps.logratios(weights), self.divergence, self.divergence_alpha)

    def token_weights(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        return token_weights(self.aggregate, logps.mask, batch.ids, step=batch.step, rest=self.shared_rest)

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        """What the loss is while the policy still equals the reference, or None where that is no constant."""
        return None

    def initial_state(self) -> State:
        """What `state` is before the first step. What `observe` computes of a batch stays on its device, as float64 tensors of
        one number: to read it would be to wait for the device.
        """
        return {}

    def observe(self, logps: Logps, batch: CandidateBatch) -> None:
        """Take all comparisons of an optimiser step into `state`; called once a step, before its values are asked for.

        For losses that couple the batch only.
        """

    def details(self, logps: Logps, batch: CandidateBatch) -> dict[str, Float[Tensor, ""]]:
        """Further quantities to log, such as what the loss adapts: means over the prompts."""
        return {}

    @property
    def needs_collision(self) -> bool:
        """Reads `Logps.collision`."""
        return self.weighting is Weighting.wpo

    def check_count(self, num_candidates: int) -> None:
        """Raises ValueError where the loss cannot take so many candidates of a prompt."""
        if num_candidates < self.min_candidates:
            raise ValueError(
                f"loss={self.name} compares completions of one prompt, but the data has single ones: choose loss=kto, bco or "
                "aot_unpaired"
            )
        if self.max_candidates is not None and num_candidates > self.max_candidates:
            raise ValueError(
                f"loss={self.name} takes at most {self.max_candidates} candidates of a prompt, the data has {num_candidates}"
            )

    def check(self, batch: CandidateBatch) -> None:
        """Raises ValueError where the data lacks what the loss needs."""
        self.check_count(batch.num_candidates)
        self.margin.check(batch)
        if self.needs_scores and batch.scores is None:
            raise ValueError(f"loss={self.name} needs the candidates' scores, which this data does not have")

    def remarks(self) -> list[str]:
        """What a user would want to be told of these settings."""
        return []


def logged(number: float | Tensor, like: Tensor) -> Float[Tensor, ""]:
    """A number of a loss's state as a float32 tensor beside another."""
    return torch.as_tensor(number, dtype=torch.float32, device=like.device)


def default_of(cls: type, name: str) -> Any:
    """What the setting is if nobody sets it."""
    setting = next(f for f in fields(cls) if f.name == name)
    return setting.default_factory() if callable(setting.default_factory) else setting.default


LOSSES: Registry[PreferenceLoss] = Registry("loss", "dpo_lab.losses")
