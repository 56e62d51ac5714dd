"""What a layout is: the tokens of a batch laid out as passes of a model, each token scored once.

Laying out happens in main memory, whatever device the model is on: reading a length from an accelerator would wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.attention import Trees

R = TypeVar("R")


class Layout(Enum):
    """How the tokens of a batch are laid out; changes time and memory, not the scores.

    rows: every candidate after its own copy of the prompt. branches: the prompt once, its candidates behind it in one row.
    packed: the same, all prompts in one row. auto: for each batch the cheapest by count, without packed where it has no kernel.
    prefix was a layout once, slower than packed or branches wherever it was measured; configurations that name it get auto.
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


@dataclass
class Work:
    """Multiplications of a model's body: of each token with the weights, and of each token with one that it attends to."""

    of_token: int = 1
    of_pair: int = 0
    longest_row: int | None = None
    """The most tokens that a row of branches may hold: the size of a learned table of positions. None: any number."""
    tokens_of_pass: int = 48
    """One more pass of the model costs as much as so many more tokens: small products are slow. Measured on a CPU."""


@runtime_checkable
class SharesPrompt(SplitsHead, Protocol):
    """A model that reads a prompt once for several completions: as branches of one row, which it may have to itself or not."""

    def hidden_of_branches(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor: ...
    def hidden_of_trees(self, tokens: Tensor, positions: Tensor, trees: Trees) -> Tensor: ...
    def work(self) -> Work: ...


@dataclass
class Rows:
    """Every candidate after its prompt, in one row each, candidates of the first index first; padding is at the end.

    A causal model never looks there.
    """

    tokens: Int[Tensor, "r n"]
    scored: Bool[Tensor, "r n"]
    at: Int[Tensor, "r n"]
    lengths: list[int]
    prompts: list[int]
    """Tokens that the rows of each prompt begin with alike; row r belongs to prompt r modulo their number."""

    def with_scores(self) -> list[int]:
        """The rows that have anything to score."""
        return self.scored.any(dim=1).nonzero()[:, 0].tolist()


@dataclass
class Part:
    """Some of the tokens to score, laid out."""

    at: Int[Tensor, " t"]
    """Where their numbers belong among those of all tokens, flattened."""
    targets: Int[Tensor, " t"]
    """The tokens themselves."""

    def states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        """What the head is applied to for each; the logits themselves where a model has no head of its own."""
        raise NotImplementedError


@dataclass
class Plan:
    """A way to lay rows out."""

    rows: Rows
    cost: float
    """Multiplications in the model's body, forward."""

    layout: ClassVar[Layout]

    def parts(self) -> list[Part]:
        raise NotImplementedError


def rows_of(tokens: Int[Tensor, "r n"], present: Bool[Tensor, "r n"], scored: Bool[Tensor, "r n"]) -> Rows:
    """Rows that are not known to have anything in common; padding may stand anywhere.

    Raises ValueError where a scored token is the first of its row.
    """
    assert not (scored & ~present).any(), "a token can only be scored where it is present"
    # Present tokens move to the front, in order.
    order = torch.argsort((~present).byte(), dim=1, stable=True)
    lengths: list[int] = present.sum(dim=1).tolist()
    order = order[:, : max(lengths, default=0)]
    target = scored.gather(1, order)
    if target.shape[1] and target[:, 0].any():
        row = int(target[:, 0].nonzero()[0])
        raise ValueError(f"row {row} has an empty prompt: nothing predicts its first token; begin prompts with a start token")
    at = order + tokens.shape[1] * rearrange(torch.arange(len(tokens)), "r -> r 1")
    return Rows(tokens.gather(1, order) * present.gather(1, order), target, at, lengths, [0] * len(tokens))


def rows_of_sequences(
    tokens: Int[Tensor, "r n"], present: Bool[Tensor, "r n"], scored: Bool[Tensor, "r n"], num_candidates: int
) -> Rows:
    """The same, rows r / num_candidates apart being candidates of one prompt: what they begin with alike and unscored."""
    rows = rows_of(tokens, present, scored)
    inside = torch.arange(rows.tokens.shape[1]) < rearrange(index(rows.lengths), "r -> r 1")
    read = rearrange(rows.tokens.where(inside & ~rows.scored, -1), "(k b) n -> k b n", k=num_candidates)
    alike = (read == read[0]).all(dim=0) & (read[0] != -1)
    rows.prompts = alike.long().cumprod(dim=1).sum(dim=1).tolist()
    return rows


def rows_of_batch(batch: CandidateBatch) -> Rows:
    """The batch's candidates after their prompts. Raises ValueError for an empty prompt."""
    batch = batch.on_host()
    k, p, m = batch.num_candidates, batch.prompt.shape[1], batch.completions.shape[2]
    prompt = repeat(batch.prompt, "b p -> (k b) p", k=k)
    prompt_mask = repeat(batch.prompt_mask, "b p -> (k b) p", k=k)
    completions, mask = (rearrange(t, "k b m -> (k b) m") for t in (batch.completions, batch.mask))
    rows = rows_of(
        torch.cat((prompt, completions), dim=1),
        torch.cat((prompt_mask, mask), dim=1),
        torch.cat((torch.zeros_like(prompt_mask), mask), dim=1),
    )
    row, column = rows.at // max(p + m, 1), rows.at % max(p + m, 1)
    rows.at = row * m + column - p
    rows.prompts = batch.prompt_mask.sum(dim=1).tolist()
    return rows


def index(items: list[int]) -> Int[Tensor, " n"]:
    return torch.tensor(items, dtype=torch.long)


def places(wanted: Bool[Tensor, "r n"]) -> Int[Tensor, " t"]:
    """Where the wanted positions are, flattened."""
    return wanted.flatten().nonzero()[:, 0]


def picked(hidden: Float[Tensor, "r n d"], at: Int[Tensor, " t"]) -> Float[Tensor, "t d"]:
    """The hidden states at flattened positions."""
    # By index: a mask would be counted on the device first, and its gradient is slow.
    return rearrange(hidden, "r n d -> (r n) d").index_select(0, at)


def moved_to(record: R, device: torch.device) -> R:
    """The same record with its tensors on a device; nothing waits for them to arrive."""
    if device.type == "cpu":  # where they were made
        return record

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, list):
            return [moved(item) for item in value]
        return moved_to(value, device) if is_dataclass(value) else value

    assert is_dataclass(record)
    assert not isinstance(record, type)
    return replace(record, **{field.name: moved(getattr(record, field.name)) for field in fields(record)})
