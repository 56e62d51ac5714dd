"""Sampling completions from a causal language model."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dpo_lab.scoring import evaluating

COMPACT_BELOW = 0.8
"""Once fewer than this share of a batch's rows still run, the ended ones are dropped, and their cache with them."""


@runtime_checkable
class Decodes(Protocol):
    """A model that can go on from a cached state.

    `decode(tokens, state)` gives the logits after the last token and the state; `keep(state, rows)` drops the other rows.
    """

    def decode(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]: ...
    def keep(self, state: Any, rows: Tensor) -> Any: ...


@torch.no_grad()
def sample(
    model: nn.Module,
    prompt: Int[Tensor, "b p"],
    prompt_mask: Bool[Tensor, "b p"],
    max_tokens: int,
    *,
    end: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    rows_at_once: int = 1024,
) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """One completion for each prompt, drawn token by token, and its mask; at most `max_tokens` long.

    A completion ends with the token `end`, which belongs to it, or is cut at `max_tokens`. Temperature 1 draws from the
    model's own distribution; 0 takes the most likely token. Prompts of one length run together, so none is padded.
    Deterministic given the generator's state. Raises ValueError where prompt + completion exceed the model's context.
    """
    lengths = prompt_mask.sum(dim=1)
    if not lengths.all():
        raise ValueError("an empty prompt: nothing predicts its first token; begin prompts with a start token")
    context = getattr(model, "max_seq_len", None)
    if context and len(lengths) and int(lengths.max()) + max_tokens - 1 > context:
        raise ValueError(
            f"a prompt of {int(lengths.max())} tokens and {max_tokens} sampled ones exceed the model's context of {context}"
        )
    completions = prompt.new_full((len(prompt), max_tokens), end)
    mask = torch.zeros_like(completions, dtype=torch.bool)
    with evaluating(model):
        for length in lengths.unique().tolist():
            for rows in (lengths == length).nonzero()[:, 0].split(rows_at_once):
                starts = prompt[rows][prompt_mask[rows]].reshape(len(rows), length)
                completions[rows], mask[rows] = _sample_rows(model, starts, max_tokens, end, generator, temperature)
    used = int(mask.sum(dim=1).max()) if len(mask) else 0
    return completions[:, :used], mask[:, :used]


def _sample_rows(
    model: nn.Module, tokens: Int[Tensor, "r p"], max_tokens: int, end: int, generator: torch.Generator, temperature: float
) -> tuple[Int[Tensor, "r m"], Bool[Tensor, "r m"]]:
    """Completions of prompts without padding, and their mask."""
    out = tokens.new_full((len(tokens), max_tokens), end)
    mask = torch.zeros_like(out, dtype=torch.bool)
    running = torch.arange(len(tokens), device=tokens.device)
    alive = torch.ones_like(running, dtype=torch.bool)
    state, fresh = None, tokens
    for t in range(max_tokens):
        if isinstance(model, Decodes):
            logits, state = model.decode(fresh, state)
        else:
            logits = model(torch.cat((tokens[running], out[running, :t]), dim=1))[:, -1]
        drawn = _draw(logits, generator, temperature).masked_fill(~alive, end)
        out[running, t], mask[running, t] = drawn, alive
        alive = alive & (drawn != end)
        still = int(alive.sum())
        if still == 0:
            break
        if still < COMPACT_BELOW * len(alive):
            rows = alive.nonzero()[:, 0]
            running, alive, drawn = running[rows], alive[rows], drawn[rows]
            state = model.keep(state, rows) if isinstance(model, Decodes) else None
        fresh = drawn[:, None]
    return out, mask


def _draw(logits: Float[Tensor, "r v"], generator: torch.Generator, temperature: float) -> Int[Tensor, " r"]:
    if temperature == 0:
        return logits.argmax(dim=-1)
    # By inverse distribution function, from one uniform number a row: half the time of torch.multinomial on a CPU.
    chances = (logits.float() / temperature).softmax(dim=-1).cumsum(dim=-1)
    drawn = torch.rand(len(chances), 1, generator=generator, device=chances.device) * chances[:, -1:]
    return torch.searchsorted(chances, drawn, right=True)[:, 0].clamp(max=chances.shape[1] - 1)
