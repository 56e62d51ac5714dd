"""The options that all losses share, around the formula of each."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from enum import Enum
from typing import Any, TypeVar, get_type_hints

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.aggregates import mean_weights, token_weights
from dpo_lab.losses.divergences import Divergence, link
from dpo_lab.losses.margins import Margin
from dpo_lab.losses.ranges import check_ranges
from dpo_lab.records import Aggregate, CandidateBatch, Logps, pairs_of, upcast

C = TypeVar("C")

RANGES = {"label_smoothing": "[0, 0.5)", "shared_rest": "[0, 1]", "divergence_alpha": "(0, 1]", "nll": "[0, inf)"}


class Weighting(Enum):
    """What a pair counts. wpo: by how likely the policy would be to sample it (Zhou et al. 2024, arXiv:2406.11827)."""

    none = "none"
    wpo = "wpo"


@dataclass
class LossOptions:
    """Options that every loss shares: token aggregation, divergence, label noise, pair weights, margins, an NLL term.

    They are set beside the loss's own settings, on the command line and in Python: loss.nll=1, DPOLoss(nll=1.0).
    """

    aggregate: Aggregate = Aggregate.sum
    """How the log-probabilities of a completion's tokens become one number."""
    shared_rest: float = 0.5
    """What a token counts beyond the shortest candidate's length, with aggregate=shared; in [0, 1]."""
    divergence: Divergence = Divergence.reverse_kl
    """Divergence from the reference in the objective: it decides what a log-ratio counts for."""
    divergence_alpha: float = 0.5
    """Of divergence=alpha: towards 0 it is the reverse KL, at 1 the forward KL; in (0, 1]."""
    label_smoothing: float = 0.0
    """Probability that a label is wrong, in [0, .5)."""
    weighting: Weighting = Weighting.none
    """wpo: a pair counts by how likely the policy would be to sample it. Zhou et al. 2024, arXiv:2406.11827."""
    margin: Margin = field(default_factory=Margin)
    nll: float = 0.0
    """Times the chosen completion's mean negative log-probability per token, added to the loss."""

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        if self.shared_rest != LossOptions.shared_rest and self.aggregate is not Aggregate.shared:
            raise ValueError(f"loss.shared_rest is for loss.aggregate=shared, got it with {self.aggregate.value}")
        if self.divergence_alpha != LossOptions.divergence_alpha and self.divergence is not Divergence.alpha:
            raise ValueError(f"loss.divergence_alpha is for loss.divergence=alpha, got it with {self.divergence.value}")
        if self.margin.score and self.label_smoothing:
            raise ValueError("loss.label_smoothing cannot be used with loss.margin.score: that is a margin of certain pairs")

    @property
    def move_value_at_reference(self) -> bool:
        """Whether they change the loss of a policy that equals its reference."""
        return self.weighting is not Weighting.none or bool(self.margin) or bool(self.nll)

    def token_weights(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        return token_weights(self.aggregate, logps.mask, batch.ids, step=batch.step, rest=self.shared_rest)

    def linked(self, logratios: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Log-ratios under the divergence's link function."""
        return link(logratios, self.divergence, self.divergence_alpha)

    def smoothed(self, probability: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The probability that a label is right, if it may also have been swapped."""
        return probability * (1 - self.label_smoothing) + (1 - probability) * self.label_smoothing

    def weighted_by_pair(self, losses: Float[Tensor, "q b"], logps: Logps) -> Float[Tensor, "q b"]:
        """The losses of pairs, each times its weight."""
        return wpo_weights(logps) * losses if self.weighting is Weighting.wpo else losses

    def with_nll_term(self, values: Float[Tensor, " b"], logps: Logps) -> Float[Tensor, " b"]:
        return values - self.nll * logps.policy_logps(mean_weights(logps.mask))[0] if self.nll else values


def wpo_weights(logps: Logps) -> Float[Tensor, "q b"]:
    """Of every pair, the product of both completions' exp(mean over tokens of logp - log sum_v p_v^2). No gradient.

    About 1 for completions that the policy would sample, near 0 for those it would not.
    """
    assert logps.collision is not None, "these Logps were made without the collision probability"
    excess = upcast(logps.policy).detach() - upcast(logps.collision)
    means = reduce(excess * logps.mask, "k b m -> k b", "sum") / logps.lengths.clamp(min=1)
    first, second = pairs_of(len(means), means.device)
    return torch.exp(means[first] + means[second])


def with_options(cls: type[C]) -> type[C]:
    """The loss class with the options as further fields, which its instances hold together in `options`."""
    own, types = {setting.name for setting in fields(cls)}, get_type_hints(LossOptions)  # type: ignore[arg-type]
    added: list[Any] = [(option.name, types[option.name], _again(option)) for option in fields(LossOptions)]
    added = [entry for entry in added if entry[0] not in own]
    if not added:
        return cls  # a subclass of one that has them

    def check_and_hold(self: Any) -> None:
        self.options = LossOptions(**{option.name: getattr(self, option.name) for option in fields(LossOptions)})
        cls.__post_init__(self)  # type: ignore[attr-defined]

    namespace = {"__post_init__": check_and_hold, "__module__": cls.__module__, "__doc__": cls.__doc__}
    made = make_dataclass(cls.__name__, added, bases=(cls,), namespace=namespace)
    made.__qualname__ = cls.__qualname__
    return made


def _again(option: Field[Any]) -> Any:
    """The same default for another class."""
    return field(default=option.default) if option.default is not MISSING else field(default_factory=option.default_factory)
