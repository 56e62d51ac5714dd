"""A weighted sum of losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from dpo_lab.losses.base import LOSSES, NO_STATE, PreferenceLoss, State
from dpo_lab.losses.laws import Laws
from dpo_lab.losses.options import LossOptions
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.registry import suggestion

EXAMPLE = "{name: dpo, weight: 0.8}"
OF_SOME = ("needs_reference", "needs_scores", "needs_kl", "needs_mismatched", "couples_batch", "reads_confidence")
"""What is true of a mix where it is true of one of its parts."""


def _mpo() -> list[Any]:
    return [{"name": "dpo", "weight": 0.8}, {"name": "bco", "weight": 0.2}, {"name": "sft", "weight": 1.0}]


@LOSSES.register
@dataclass
class MixLoss(PreferenceLoss):
    """sum_i weight_i * loss_i. By default MPO: 0.8 dpo + 0.2 bco + 1.0 sft (a mean). Wang et al. 2024, arXiv:2411.10442.

    Several losses at once, each with its settings: loss.parts=[{name: dpo, weight: 0.8, beta: 0.1}, {name: sft}]. It needs what
    its parts need; rewards are those of the first part. State and extra metrics carry the part's position in front:
    `1.mean`.
    """

    name: str = "mix"
    parts: list[Any] = field(default_factory=_mpo)
    """The losses: {name: ..., weight: 1.0} each, with further settings of that loss."""

    laws = Laws.of("monotone convex nonnegative")
    couples_batch = True
    unsupported: ClassVar = dict.fromkeys(["beta", *(option.name for option in fields(LossOptions))], "give it to its parts")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise ValueError(f"loss.parts must have at least one part, such as {EXAMPLE}, got []")
        read = [_part(f"loss.parts[{position}]", settings) for position, settings in enumerate(self.parts)]
        self.weights, self.losses = [weight for weight, _ in read], [loss for _, loss in read]
        most = [loss.max_candidates for loss in self.losses if loss.max_candidates is not None]
        # What other losses are by their class, a mix is by its parts; what its class says is true of the default ones.
        vars(self).update(
            {fact: any(getattr(loss, fact) for loss in self.losses) for fact in OF_SOME},
            laws=_common([loss.laws for loss in self.losses]),
            min_candidates=max(loss.min_candidates for loss in self.losses),
            max_candidates=min(most, default=None),
        )

    @property
    def needs_collision(self) -> bool:
        return any(loss.needs_collision for loss in self.losses)

    def initial_state(self) -> State:
        return _joined([loss.initial_state() for loss in self.losses])

    def observe(self, logps: Logps, batch: CandidateBatch, state: State) -> State:
        return _joined(
            [loss.observe(logps, batch, own) if loss.couples_batch else own for loss, own in self._with_states(state)]
        )

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        losses = [loss(logps, batch, own) for loss, own in self._with_states(state)]
        first, *others = [weight * values for weight, values in zip(self.weights, losses, strict=True)]
        return sum(others, start=first)

    def logratios(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        return self.losses[0].logratios(logps, batch, _of_part(0, state))

    def rewards(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        return self.losses[0].rewards(logps, batch, _of_part(0, state))

    def token_weights(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        return self.losses[0].token_weights(logps, batch)

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        values = [loss.value_at_reference(num_candidates) for loss in self.losses]
        terms = [weight * value for weight, value in zip(self.weights, values, strict=True) if value is not None]
        return sum(terms) if len(terms) == len(values) else None

    def extra_metrics(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Float[Tensor, ""]]:
        """Those of the parts, and the mean of each part's own loss under its name."""
        parts = self._with_states(state)
        return _joined(
            [{loss.name: loss(logps, batch, own).mean(), **loss.extra_metrics(logps, batch, own)} for loss, own in parts]
        )

    def check_count(self, num_candidates: int) -> None:
        for loss in self.losses:
            loss.check_count(num_candidates)

    def check(self, batch: CandidateBatch) -> None:
        for loss in self.losses:
            loss.check(batch)

    def warnings(self) -> list[str]:
        return [warning for loss in self.losses for warning in loss.warnings()]

    def _with_states(self, state: State) -> list[tuple[PreferenceLoss, State]]:
        return [(loss, _of_part(position, state)) for position, loss in enumerate(self.losses)]


def _joined(parts: list[Any]) -> dict[str, Any]:
    """What the parts have by name, each name with the part's position in front."""
    return {f"{position}.{name}": value for position, part in enumerate(parts) for name, value in part.items()}


def _of_part(position: int, state: State) -> State:
    start = f"{position}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


def _common(of_parts: list[Laws]) -> Laws:
    """Laws that a sum keeps when all its terms do: not those of one beta, or of one reward."""
    if len(of_parts) == 1:
        return of_parts[0]
    kept = {law.name: all(getattr(laws, law.name) for laws in of_parts) for law in fields(Laws)}
    return Laws(**kept | {"scaling": False, "swap_linear": False})


def _part(where: str, settings: Any) -> tuple[float, PreferenceLoss]:
    """Weight and loss of one part. Raises ValueError, with `where`, for a name, setting or value that does not exist."""
    own = dict(settings) if isinstance(settings, Mapping) else {}
    name, weight = own.pop("name", None), own.pop("weight", 1.0)
    if not isinstance(name, str):
        raise ValueError(f"{where} must have the name of a loss, such as {EXAMPLE}, got {settings}")
    if name == MixLoss.name:
        raise ValueError(f"{where} cannot be a mix itself: list the inner parts beside the others")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ValueError(f"{where}.weight is how much the part counts: a number > 0 and finite, got {weight}")
    try:
        schema = OmegaConf.structured(LOSSES[name])
        _refuse_unknown(own, schema)
        loss = OmegaConf.to_object(OmegaConf.merge(schema, own))
    except OmegaConfBaseException as error:
        key = f".{error.full_key}" if error.full_key else ""
        raise ValueError(f"{where}{key}: {str(error.__cause__ or error).splitlines()[0]}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    assert isinstance(loss, PreferenceLoss)
    return float(weight), loss


def _refuse_unknown(settings: Mapping[str, Any], schema: DictConfig, prefix: str = "") -> None:
    for key, value in settings.items():
        if key not in schema:
            raise ValueError(f"there is no setting '{prefix}{key}'.{suggestion(str(key), map(str, schema))}")
        if isinstance(value, Mapping) and isinstance(schema[key], DictConfig):
            _refuse_unknown(value, schema[key], f"{prefix}{key}.")
