"""Log-probabilities of tokens under a causal language model: the one place where position t predicts token t + 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dpo_lab.records import CandidateBatch

ROWS_IN_GROUP, MOST_GROUPS = 32, 6
"""Rows are run in groups of like length, of at least so many rows: padding costs time, and so do small products."""


@runtime_checkable
class SplitsHead(Protocol):
    """A model whose head can be applied to chosen positions only: `hidden(tokens)`, then `head(hidden)`."""

    def hidden(self, tokens: Tensor) -> Tensor: ...
    def head(self, hidden: Tensor) -> Tensor: ...


def score(model: nn.Module, batch: CandidateBatch) -> Float[Tensor, "k b m"]:
    """Log-probability of every completion token given its prompt and the tokens before it, in nats.

    Masked positions hold exactly 0. The result is float32 whatever the model computes in (float64 stays float64).
    Raises ValueError for an empty prompt, and where prompt + completion exceed the model's context.
    """
    k, p = batch.num_candidates, batch.prompt.shape[1]
    prompt = repeat(batch.prompt, "b p -> (k b) p", k=k)
    prompt_mask = repeat(batch.prompt_mask, "b p -> (k b) p", k=k)
    completions, mask = (rearrange(t, "k b m -> (k b) m") for t in (batch.completions, batch.mask))
    logps = token_logps(
        model,
        tokens=torch.cat((prompt, completions), dim=1),
        present=torch.cat((prompt_mask, mask), dim=1),
        scored=torch.cat((torch.zeros_like(prompt_mask), mask), dim=1),
    )
    return rearrange(logps[:, p:], "(k b) m -> k b m", k=k)


def token_logps(
    model: nn.Module,
    tokens: Int[Tensor, "r n"],
    present: Bool[Tensor, "r n"],
    scored: Bool[Tensor, "r n"],
) -> Float[Tensor, "r n"]:
    """Log-probability of each scored token given the present tokens before it in its row, in nats; 0 elsewhere.

    Tokens that are not present are padding: they are taken out before the model runs, wherever they stand.
    Raises ValueError where a scored token is the first of its row, and where a row exceeds the model's context.
    """
    assert not (scored & ~present).any(), "a token can only be scored where it is present"
    # Present tokens move to the front, in order. Padding is then all at the end, where a causal model never looks.
    order = torch.argsort((~present).byte(), dim=1, stable=True)
    lengths = present.sum(dim=1)
    order = order[:, : max(int(lengths.max()), 1)] if len(present) else order
    _check_context(model, order.shape[1])
    packed = tokens.gather(1, order) * present.gather(1, order)
    target = scored.gather(1, order)
    if target[:, 0].any():
        row = int(target[:, 0].nonzero()[0])
        raise ValueError(f"row {row} has an empty prompt: nothing predicts its first token; begin prompts with a start token")
    found = _by_length(model, packed, target, lengths)
    return found.new_zeros(tokens.shape).scatter(1, order, found)


def _by_length(
    model: nn.Module, tokens: Int[Tensor, "r n"], target: Bool[Tensor, "r n"], lengths: Int[Tensor, " r"]
) -> Float[Tensor, "r n"]:
    """The same as `_next_token_logps`, with rows of like length run together, each group as wide as its longest row."""
    width = tokens.shape[1]
    num_groups = min(max(len(tokens) // ROWS_IN_GROUP, 1), MOST_GROUPS)
    if num_groups == 1:
        return _next_token_logps(model, tokens, target)
    sorted_rows = lengths.argsort(stable=True)
    found = []
    for rows in sorted_rows.tensor_split(num_groups):
        longest = max(int(lengths[rows].max()), 1) if len(rows) else width
        logps = _next_token_logps(model, tokens[rows, :longest], target[rows, :longest])
        found.append(F.pad(logps, (0, width - longest)))
    return torch.cat(found)[sorted_rows.argsort()]


def _next_token_logps(model: nn.Module, tokens: Int[Tensor, "r n"], target: Bool[Tensor, "r n"]) -> Float[Tensor, "r n"]:
    """Log-probability of the target tokens at their own index; the state at t - 1 predicts the token at t."""
    inputs, predicted, wanted = tokens[:, :-1], tokens[:, 1:], target[:, 1:]
    if not wanted.any():  # completions may all be empty, and a model need not take zero tokens
        dtype = next((p.dtype for p in model.parameters()), torch.float32)
        return torch.zeros(tokens.shape, dtype=torch.promote_types(dtype, torch.float32), device=tokens.device)
    if isinstance(model, SplitsHead):
        logits = model.head(model.hidden(inputs)[wanted])  # the head is the widest product: completion positions only
    else:
        logits = model(inputs)[wanted]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    with torch.autocast(logits.device.type, enabled=False):
        values = -F.cross_entropy(logits, predicted[wanted], reduction="none")
    return F.pad(values.new_zeros(predicted.shape).masked_scatter(wanted, values), (1, 0))


def _check_context(model: nn.Module, length: int) -> None:
    context = getattr(model, "max_seq_len", None)
    if context and length - 1 > context:  # the last token is predicted, never read
        raise ValueError(f"prompt + completion have {length} tokens, the model reads {context} and predicts one more")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside the block; every submodule gets its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
