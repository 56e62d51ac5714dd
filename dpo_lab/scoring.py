"""Log-probabilities of tokens under a causal language model: the one place where position t predicts token t + 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dpo_lab.records import CandidateBatch

ROWS_IN_GROUP, MOST_GROUPS = 32, 6
"""Rows are run in groups of like length, of at least so many rows: padding costs time, and so do small products."""


@runtime_checkable
class SplitsHead(Protocol):
    """A model whose head can be applied to chosen positions only: `hidden(tokens)`, then `head(hidden)`."""

    def hidden(self, tokens: Tensor) -> Tensor: ...
    def head(self, hidden: Tensor) -> Tensor: ...


Logits = Float[Tensor, "t v"]
OfLogits = Callable[[Sequence[Logits], Int[Tensor, " t"]], tuple[Float[Tensor, " t"], ...]]
"""(each model's float32 logits at t positions, the tokens that stand there) -> numbers of each position."""


def score(model: nn.Module, batch: CandidateBatch) -> Float[Tensor, "k b m"]:
    """Log-probability of every completion token given its prompt and the tokens before it, in nats.

    Masked positions hold exactly 0. The result is float32 whatever the model computes in (float64 stays float64).
    Raises ValueError for an empty prompt, and where prompt + completion exceed the model's context.
    """
    return score_by([model], batch, log_probabilities)[0]


def log_probabilities(logits: Sequence[Logits], tokens: Int[Tensor, " t"]) -> tuple[Float[Tensor, " t"], ...]:
    """Of the tokens under the first model."""
    return (-F.cross_entropy(logits[0], tokens, reduction="none"),)


def score_by(
    models: Sequence[nn.Module], batch: CandidateBatch, compute: OfLogits, portion: int | None = None
) -> tuple[Float[Tensor, "k b m"], ...]:
    """What `compute` makes of the models' logits at every completion token; 0 at padding. Errors as `score`.

    Gradients reach the first model only. With `portion`, the logits of so many positions exist at a time, computed once more
    in the backward pass.
    """
    k, p = batch.num_candidates, batch.prompt.shape[1]
    prompt = repeat(batch.prompt, "b p -> (k b) p", k=k)
    prompt_mask = repeat(batch.prompt_mask, "b p -> (k b) p", k=k)
    completions, mask = (rearrange(t, "k b m -> (k b) m") for t in (batch.completions, batch.mask))
    found = per_token(
        models,
        tokens=torch.cat((prompt, completions), dim=1),
        present=torch.cat((prompt_mask, mask), dim=1),
        scored=torch.cat((torch.zeros_like(prompt_mask), mask), dim=1),
        compute=compute,
        portion=portion,
    )
    return tuple(rearrange(of[:, p:], "(k b) m -> k b m", k=k) for of in found)


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
    return per_token([model], tokens, present, scored, log_probabilities)[0]


def per_token(
    models: Sequence[nn.Module],
    tokens: Int[Tensor, "r n"],
    present: Bool[Tensor, "r n"],
    scored: Bool[Tensor, "r n"],
    compute: OfLogits,
    portion: int | None = None,
) -> tuple[Float[Tensor, "r n"], ...]:
    """As `token_logps`, for whatever `compute` makes of the models' logits (see `score_by`)."""
    assert not (scored & ~present).any(), "a token can only be scored where it is present"
    # Present tokens move to the front, in order. Padding is then all at the end, where a causal model never looks.
    order = torch.argsort((~present).byte(), dim=1, stable=True)
    lengths = present.sum(dim=1)
    order = order[:, : max(int(lengths.max()), 1)] if len(present) else order
    for model in models:
        _check_context(model, order.shape[1])
    packed = tokens.gather(1, order) * present.gather(1, order)
    target = scored.gather(1, order)
    if target[:, 0].any():
        row = int(target[:, 0].nonzero()[0])
        raise ValueError(f"row {row} has an empty prompt: nothing predicts its first token; begin prompts with a start token")
    found = _by_length(models, packed, target, lengths, compute, portion)
    return tuple(of.new_zeros(tokens.shape).scatter(1, order, of) for of in found)


def _by_length(
    models: Sequence[nn.Module],
    tokens: Int[Tensor, "r n"],
    target: Bool[Tensor, "r n"],
    lengths: Int[Tensor, " r"],
    compute: OfLogits,
    portion: int | None,
) -> list[Float[Tensor, "r n"]]:
    """The same as `_at_targets`, with rows of like length run together, each group as wide as its longest row."""
    width = tokens.shape[1]
    num_groups = min(max(len(tokens) // ROWS_IN_GROUP, 1), MOST_GROUPS)
    if num_groups == 1:
        return _at_targets(models, tokens, target, compute, portion)
    sorted_rows = lengths.argsort(stable=True)
    groups = []
    for rows in sorted_rows.tensor_split(num_groups):
        longest = max(int(lengths[rows].max()), 1) if len(rows) else width
        found = _at_targets(models, tokens[rows, :longest], target[rows, :longest], compute, portion)
        groups.append([F.pad(of, (0, width - longest)) for of in found])
    back = sorted_rows.argsort()
    return [torch.cat(parts)[back] for parts in zip(*groups, strict=True)]


def _at_targets(
    models: Sequence[nn.Module],
    tokens: Int[Tensor, "r n"],
    target: Bool[Tensor, "r n"],
    compute: OfLogits,
    portion: int | None,
) -> list[Float[Tensor, "r n"]]:
    """Numbers of the target tokens at their own index; the state at t - 1 predicts the token at t."""
    inputs, predicted, wanted = tokens[:, :-1], tokens[:, 1:], target[:, 1:]
    if not wanted.any():  # completions may all be empty, and a model need not take zero tokens
        dtype = next((p.dtype for p in models[0].parameters()), torch.float32)
        nothing = torch.zeros(0, 2, dtype=torch.promote_types(dtype, torch.float32), device=tokens.device)
        values = compute([nothing] * len(models), predicted[wanted])
    else:
        states = [_states(models[0], inputs, wanted)]
        with torch.no_grad():
            states += [_states(model, inputs, wanted) for model in models[1:]]
        values = _in_portions(models, states, predicted[wanted], compute, portion)
    return [F.pad(of.new_zeros(predicted.shape).masked_scatter(wanted, of), (1, 0)) for of in values]


def _states(model: nn.Module, inputs: Int[Tensor, "r n"], wanted: Bool[Tensor, "r n"]) -> Float[Tensor, "t d"]:
    """What the head is applied to at the wanted positions; the logits themselves where a model has no head of its own."""
    if isinstance(model, SplitsHead):
        return model.hidden(inputs)[wanted]  # the head is the widest product: completion positions only
    return model(inputs)[wanted]


def _in_portions(
    models: Sequence[nn.Module],
    states: Sequence[Float[Tensor, "t _"]],
    tokens: Int[Tensor, " t"],
    compute: OfLogits,
    portion: int | None,
) -> tuple[Float[Tensor, " t"], ...]:
    def of_portion(tokens: Int[Tensor, " t"], *states: Float[Tensor, "t _"]) -> tuple[Float[Tensor, " t"], ...]:
        found = []
        for i, (model, state) in enumerate(zip(models, states, strict=True)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and i == 0):
                logits = model.head(state) if isinstance(model, SplitsHead) else state
                found.append(logits if logits.dtype == torch.float64 else logits.float())
        with torch.autocast(tokens.device.type, enabled=False):
            return compute(found, tokens)

    if portion is None:
        return of_portion(tokens, *states)
    # Not kept but computed again in the backward pass: what is as wide as the vocabulary is the largest of a step.
    parts = [
        checkpoint(of_portion, *of, use_reentrant=False, preserve_rng_state=False)
        for of in zip(tokens.split(portion), *(state.split(portion) for state in states), strict=True)
    ]
    return tuple(torch.cat(of) for of in zip(*parts, strict=True))


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
