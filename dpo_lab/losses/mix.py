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

from dpo_lab.losses.base import LOSSES, Laws, PreferenceLoss, State
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.registry import suggestion

EXAMPLE = "{name: dpo, weight: 0.8}"


def _mpo() -> list[Any]:
    return [{"name": "dpo", "weight": 0.8}, {"name": "bco", "weight": 0.2}, {"name": "sft", "weight": 1.0}]


@LOSSES.register
@dataclass
class MixLoss(PreferenceLoss):
    """sum_i weight_i * loss_i. By default MPO: 0.8 dpo + 0.2 bco + 1.0 sft (a mean). Wang et al. 2024, arXiv:2411.10442.

    A part is {name: ..., weight: 1.0, and settings of the loss of that name}. It needs and refuses what its parts do; rewards
    are those of the first part. State and details carry the part's position in front: `1.mean`.
    """

    name: str = "mix"
    parts: list[Any] = field(default_factory=_mpo)

    laws: ClassVar[Laws] = Laws(monotone=True, convex=True, nonnegative=True)
    couples_batch: ClassVar[bool] = True
    refuses: ClassVar[Mapping[str, str]] = {
        setting.name: "give it to its parts" for setting in fields(PreferenceLoss) if setting.name != "name"
    }

    def __post_init__(self) -> None:
        self.weights: list[float] = []
        self.losses: list[PreferenceLoss] = []
        super().__post_init__()
        if not self.parts:
            raise ValueError(f"loss.parts must have at least one part, such as {EXAMPLE}, got []")
        for position, settings in enumerate(self.parts):
            weight, loss = _part(f"loss.parts[{position}]", settings)
            self.weights.append(weight)
            self.losses.append(loss)
        most = [loss.max_candidates for loss in self.losses if loss.max_candidates is not None]
        # What other losses are by their class, a mix is by its parts; what its class says is true of the default ones.
        vars(self).update(
            laws=_common(*[loss.laws for loss in self.losses]),
            needs_reference=any(loss.needs_reference for loss in self.losses),
            needs_scores=any(loss.needs_scores for loss in self.losses),
            needs_kl=any(loss.needs_kl for loss in self.losses),
            needs_mismatched=any(loss.needs_mismatched for loss in self.losses),
            couples_batch=any(loss.couples_batch for loss in self.losses),
            reads_confidence=any(loss.reads_confidence for loss in self.losses),
            min_candidates=max(loss.min_candidates for loss in self.losses),
            max_candidates=min(most, default=None),
        )

    @property
    def needs_collision(self) -> bool:
        return any(loss.needs_collision for loss in self.losses)

    @property
    def state(self) -> State:
        """A copy: set it as a whole."""
        return _prefixed(*[loss.state for loss in self.losses])

    @state.setter
    def state(self, values: State) -> None:
        for position, loss in enumerate(self.losses):
            start = f"{position}."
            loss.state = {name.removeprefix(start): of for name, of in values.items() if name.startswith(start)}

    def initial_state(self) -> State:
        return _prefixed(*[loss.initial_state() for loss in self.losses])

    def observe(self, logps: Logps, batch: CandidateBatch) -> None:
        for loss in self.losses:
            if loss.couples_batch:
                loss.observe(logps, batch)

    def values(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        first, *others = [weight * loss(logps, batch) for weight, loss in zip(self.weights, self.losses, strict=True)]
        return sum(others, start=first)

    def rewards(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        return self.losses[0].rewards(logps, batch)

    def compared(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        return self.losses[0].compared(logps, batch)

    def token_weights(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        return self.losses[0].token_weights(logps, batch)

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        found = [loss.value_at_reference(num_candidates) for loss in self.losses]
        terms = [weight * value for weight, value in zip(self.weights, found, strict=True) if value is not None]
        return sum(terms) if len(terms) == len(found) else None

    def details(self, logps: Logps, batch: CandidateBatch) -> dict[str, Float[Tensor, ""]]:
        """Those of the parts, and the mean of each part's own loss under its name."""
        return _prefixed(*[{loss.name: loss(logps, batch).mean(), **loss.details(logps, batch)} for loss in self.losses])

    def check_count(self, num_candidates: int) -> None:
        for position, loss in enumerate(self.losses):
            try:
                loss.check_count(num_candidates)
            except ValueError as error:
                raise ValueError(f"loss.parts[{position}]: {error}") from error

    def check(self, batch: CandidateBatch) -> None:
        for loss in self.losses:
            loss.check(batch)

    def remarks(self) -> list[str]:
        return [remark for loss in self.losses for remark in loss.remarks()]


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


def _prefixed(*of_parts: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{position}.{name}": of for position, part in enumerate(of_parts) for name, of in part.items()}


def _common(*of_parts: Laws) -> Laws:
    """Laws that a sum keeps when all its terms do: not those of one beta, or of one reward."""
    if len(of_parts) == 1:
        return of_parts[0]
    kept = {law.name: all(getattr(laws, law.name) for laws in of_parts) for law in fields(Laws)}
    return Laws(**kept | {"scaling": False, "swap_linear": False})
