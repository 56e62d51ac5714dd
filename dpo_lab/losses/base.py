"""The base class of preference losses, and their registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.divergences import Divergence
from dpo_lab.losses.laws import Laws
from dpo_lab.losses.options import LossOptions, Weighting, with_options
from dpo_lab.losses.ranges import check_ranges
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.registry import Registry

C = TypeVar("C")

State = Mapping[str, float | Tensor]
"""Numbers that a loss carries from step to step, by name. The trainer keeps them, and checkpoints store them."""
NO_STATE: State = MappingProxyType({})


@dataclass
class PreferenceLoss:
    """A preference loss: one value per prompt from the log-probabilities of its candidates.

    A loss is a dataclass of its own settings and its formula. The options that all losses share are in `options`, and stand
    around the formula; those that make no sense for a loss are in its `unsupported`, with the reason.

    Values are not averaged here: the trainer divides by the number of prompts in the whole step, so that accumulation over
    micro-batches and ranks changes nothing.
    """

    name: str
    beta: float = 0.1
    """Strength of the pull towards the reference. Scales with `aggregate`: about .01-.5 for sums, 2-10 for means."""

    options: ClassVar[LossOptions] = LossOptions()
    """Set by each instance of a registered loss."""
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
    listwise: ClassVar[bool] = False
    """Reads more than two candidates as one list, and not pair by pair."""
    min_candidates: ClassVar[int] = 2
    max_candidates: ClassVar[int | None] = None
    unsupported: ClassVar[Mapping[str, str]] = {}
    """Shared settings that this loss cannot use, and why."""
    ranges: ClassVar[Mapping[str, str]] = {"beta": "(0, inf)"}
    """Intervals that settings must lie in, with the reason after a colon. A loss gives those of its own settings only."""

    def __post_init__(self) -> None:
        for cls in reversed(type(self).__mro__):
            check_ranges(self, vars(cls).get("ranges", {}))
        if not self.needs_reference and self.options.divergence is not Divergence.reverse_kl:
            raise ValueError(f"loss.divergence cannot be used with loss={self.name}: it has no reference to diverge from")
        for setting in fields(self):
            name = setting.name
            if name in self.unsupported and getattr(self, name) != default_of(type(self), name):
                raise ValueError(f"loss.{name} cannot be used with loss={self.name}: {self.unsupported[name]}")

    def __call__(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, " b"]:
        """The loss of each prompt. `state` is that of a loss which has one, as `initial_state` and `observe` give it."""
        carried = self.initial_state().keys()
        assert state.keys() == carried, f"loss={self.name} carries {sorted(carried)} from step to step, got {sorted(state)}"
        values = self.values(logps, batch, state)
        if values.shape != batch.ids.shape:
            raise ValueError(
                f"loss={self.name}: `values` gave the shape {tuple(values.shape)}, and must give a value for each prompt, "
                f"{tuple(batch.ids.shape)}: means are taken elsewhere"
            )
        return self.options.with_nll_term(values, logps)

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        """The formula: the loss of each prompt, without the `nll` term."""
        raise NotImplementedError

    def rewards(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        """The implicit reward of each candidate, which this loss compares: what is logged as rewards/*."""
        return self.beta * self.logratios(logps, batch, state)

    def logratios(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        """The rewards over beta: log-ratios under the divergence's link; log-probabilities where there is no reference."""
        weights = self.token_weights(logps, batch)
        if not self.needs_reference:
            return self.per_candidate(logps.policy_logps(weights))
        return self.per_candidate(self.options.linked(logps.logratios(weights)))

    def per_candidate(self, logratios: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
        """What a candidate's log-ratio (without a reference: its log-probability) counts for."""
        return logratios

    def token_weights(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        """What each token's log-probability counts in that of the completion; None: 1."""
        return self.options.token_weights(logps, batch)

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        """What the loss is while the policy still equals the reference, or None where that is no constant."""
        return None if self.options.move_value_at_reference else self.formula_at_reference(num_candidates)

    def formula_at_reference(self, num_candidates: int) -> float | None:
        """The same for the formula alone, without weights, margin and nll."""
        return None

    def initial_state(self) -> State:
        """What the loss carries from step to step, as it is before the first one."""
        return NO_STATE

    def observe(self, logps: Logps, batch: CandidateBatch, state: State) -> State:
        """The state after one more step; called once a step with all its comparisons, before their values are asked for.

        For losses that couple the batch only. What is computed of a batch stays on its device, as float64 tensors of one
        number: to read it would be to wait for the device.
        """
        return state

    def extra_metrics(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Float[Tensor, ""]]:
        """Further quantities to log, such as what the loss adapts: means over the prompts."""
        return {}

    @property
    def needs_collision(self) -> bool:
        """Reads `Logps.collision`."""
        return self.options.weighting is Weighting.wpo

    def check_count(self, num_candidates: int) -> None:
        """Raises ValueError where the loss cannot take `num_candidates` candidates of a prompt."""
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
        self.options.margin.check(batch)
        if self.needs_scores and batch.scores is None:
            raise ValueError(f"loss={self.name} needs the candidates' scores, which this data does not have")

    def warnings(self) -> list[str]:
        """What a user would want to be told of these settings."""
        return []

    def with_settings(self: C, **settings: Any) -> C:
        """A copy with other settings or options."""
        return replace(self, **settings)  # type: ignore[type-var]  # a loss is a dataclass


def logged(number: float | Tensor, like: Tensor) -> Float[Tensor, ""]:
    """A number of a loss's state as a float32 tensor beside another."""
    return torch.as_tensor(number, dtype=torch.float32, device=like.device)


def default_of(cls: type, name: str) -> Any:
    """What the setting is if nobody sets it."""
    setting = next(f for f in fields(cls) if f.name == name)
    return setting.default_factory() if callable(setting.default_factory) else setting.default


class LossRegistry(Registry[PreferenceLoss]):
    """The losses by name, each with the options that all share."""

    def register(self, cls: type[C]) -> type[C]:
        return super().register(with_options(cls))


LOSSES = LossRegistry("loss", "dpo_lab.losses")
