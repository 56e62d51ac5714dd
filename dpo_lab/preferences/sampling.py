"""Samples of a policy as scored candidates, and their texts."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Int
from torch import Tensor, nn

from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.models.generation import sample
from dpo_lab.preferences.batches import token_lists
from dpo_lab.preferences.rewards import Scorer
from dpo_lab.records import CandidateBatch
from dpo_lab.seeding import streams_of_prompts


def draw(
    model: nn.Module,
    tokenizer: Tokenizer,
    scorer: Scorer | None,
    prompt: Int[Tensor, "b p"],
    prompt_mask: Bool[Tensor, "b p"],
    num_samples: int,
    max_tokens: int,
    *,
    temperature: float = 1.0,
    seed: int,
    purpose: str,
) -> CandidateBatch:
    """`num_samples` completions of each prompt (k of them), with the scorer's rewards of prompt and completion together.

    A prompt's samples depend only on the seed, the purpose, its tokens, and how many equal prompts come before it: other
    prompts change nothing, and with more samples the first ones stay.
    """
    device = next(model.parameters()).device
    streams = streams_of_prompts(seed, purpose, prompt, prompt_mask).branches(num_samples)
    rows, rows_mask = (repeat(t, "b p -> (k b) p", k=num_samples).to(device) for t in (prompt, prompt_mask))
    drawn, drawn_mask = sample(
        model, rows, rows_mask, max_tokens, ends=tokenizer.ends, streams=streams, temperature=temperature
    )
    completions, mask = (rearrange(t.cpu(), "(k b) m -> k b m", k=num_samples) for t in (drawn, drawn_mask))
    samples = CandidateBatch(prompt, prompt_mask, completions, mask, torch.arange(len(prompt)), torch.ones(len(prompt)))
    if scorer is not None:
        samples.scores = torch.stack([scorer(texts) for texts in texts_of(samples, tokenizer)])
    return samples


def texts_of(batch: CandidateBatch, tokenizer: Tokenizer) -> list[list[str]]:
    """The text of prompt and completion, decoded together, of each candidate of each prompt: `[k][b]`."""
    prompts = token_lists(batch.prompt, batch.prompt_mask)
    candidates = [token_lists(completions, mask) for completions, mask in zip(batch.completions, batch.mask, strict=True)]
    return [tokenizer.decode_many([[*prompt, *row] for prompt, row in zip(prompts, rows, strict=True)]) for rows in candidates]


def prompts_of(batch: CandidateBatch, tokenizer: Tokenizer) -> list[str]:
    """The text of each prompt."""
    return tokenizer.decode_many(token_lists(batch.prompt, batch.prompt_mask))
