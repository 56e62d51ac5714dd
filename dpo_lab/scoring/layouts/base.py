"""What a layout is, and what a model must offer for one.

Laying out happens in main memory, whatever device the model is on: reading a length from an accelerator would wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dpo_lab.scoring.attention import PackedRow
from dpo_lab.scoring.layouts.cost import ForwardCost
from dpo_lab.scoring.layouts.sequences import Sequences

R = TypeVar("R")


class Layout(Enum):
    """How the tokens of a batch are laid out; changes time and memory, not the scores.

    rows: every candidate after its own copy of the prompt. branches: the prompt once, its candidates behind it in one row.
    packed: the same, all prompts in one row. auto: for each batch the cheapest by count, without packed where it has no kernel.
    prefix, which earlier configurations name, is auto.
    """

    auto = "auto"
    rows = "rows"
    branches = "branches"
    packed = "packed"
    prefix = "auto"  # noqa: PIE796


@runtime_checkable
class SplitsHead(Protocol):
    """A model whose head can be applied to chosen positions only: `hidden(tokens)`, then `head(hidden)`."""

    def hidden(self, tokens: Tensor) -> Tensor: ...
    def head(self, hidden: Tensor) -> Tensor: ...


@runtime_checkable
class SharesPrompt(SplitsHead, Protocol):
    """A model that can read a prompt once for several candidates behind it in a row.

    `hidden_branches`: one prompt a row, with a mask. `hidden_packed`: several prompts in a single row, see `scoring.attention`.
    """

    def hidden_branches(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor: ...
    def hidden_packed(self, tokens: Tensor, positions: Tensor, row: PackedRow) -> Tensor: ...
    def forward_cost(self) -> ForwardCost: ...


@dataclass
class ForwardPass:
    """One pass of a model over some of the tokens."""

    slots: Int[Tensor, " t"]
    """Where the numbers of this pass's scored tokens belong among those of all tokens, flattened."""
    targets: Int[Tensor, " t"]
    """The scored tokens themselves."""

    def hidden_states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        """What the head is applied to for each target; the logits themselves where a model has no head of its own."""
        raise NotImplementedError


@dataclass
class LayoutPlan:
    """A batch in one layout: which sequences run in which pass, and what that costs."""

    sequences: Sequences
    cost: float
    """Multiplications in the model's body, forward."""

    layout: ClassVar[Layout]

    def passes(self) -> list[ForwardPass]:
        raise NotImplementedError


def flat_positions(chosen: Bool[Tensor, "r n"]) -> Int[Tensor, " t"]:
    """Where the chosen positions are, flattened."""
    return chosen.flatten().nonzero()[:, 0]


def at_positions(hidden: Float[Tensor, "r n d"], positions: Int[Tensor, " t"]) -> Float[Tensor, "t d"]:
    """The hidden states at flattened positions."""
    # By index: a mask would be counted on the device first, and its gradient is slow.
    return rearrange(hidden, "r n d -> (r n) d").index_select(0, positions)


def to_device(record: R, device: torch.device) -> R:
    """The same record with its tensors on a device; nothing waits for them to arrive."""
    if device.type == "cpu":  # where they were made
        return record

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, list):
            return [moved(item) for item in value]
        return to_device(value, device) if is_dataclass(value) else value

    assert is_dataclass(record)
    assert not isinstance(record, type)
    return replace(record, **{field.name: moved(getattr(record, field.name)) for field in fields(record)})
