"""A batch as one sequence a candidate, the prompt in front: what every layout starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Int
from torch import Tensor

from dpo_lab.records import CandidateBatch


@dataclass
class Sequences:
    """Every candidate after its prompt, candidates of the first index first; padding is at the end, where a causal model never
    looks.
    """

    tokens: Int[Tensor, "r n"]
    scored: Bool[Tensor, "r n"]
    slots: Int[Tensor, "r n"]
    """Where each token's number belongs among those of all tokens, flattened."""
    lengths: list[int]
    prompt_lengths: list[int]
    """Tokens that the sequences of each prompt share at their beginning; sequence r belongs to prompt r modulo their number."""

    def with_scores(self) -> list[int]:
        """The sequences that have anything to score."""
        return self.scored.any(dim=1).nonzero()[:, 0].tolist()

    def of_prompt(self, prompt: int) -> range:
        """The prompt's sequences."""
        return range(prompt, len(self.lengths), len(self.prompt_lengths))


def sequences_of_batch(batch: CandidateBatch) -> Sequences:
    """The batch's candidates after their prompts. Raises ValueError for an empty prompt."""
    batch = batch.on_host()
    k, p, m = batch.num_candidates, batch.prompt.shape[1], batch.completions.shape[2]
    prompt = repeat(batch.prompt, "b p -> (k b) p", k=k)
    prompt_mask = repeat(batch.prompt_mask, "b p -> (k b) p", k=k)
    completions, mask = (rearrange(t, "k b m -> (k b) m") for t in (batch.completions, batch.mask))
    sequences = _without_padding(
        torch.cat((prompt, completions), dim=1),
        torch.cat((prompt_mask, mask), dim=1),
        torch.cat((torch.zeros_like(prompt_mask), mask), dim=1),
    )
    row, column = sequences.slots // max(p + m, 1), sequences.slots % max(p + m, 1)
    sequences.slots = row * m + column - p
    sequences.prompt_lengths = batch.prompt_mask.sum(dim=1).tolist()
    return sequences


def sequences_of_tokens(
    tokens: Int[Tensor, "r n"], present: Bool[Tensor, "r n"], scored: Bool[Tensor, "r n"], num_candidates: int
) -> Sequences:
    """Rows of tokens, those r / num_candidates apart being candidates of one prompt: what they begin with alike and unscored.

    Padding may stand anywhere. Raises ValueError where a scored token is the first of its row.
    """
    sequences = _without_padding(tokens, present, scored)
    inside = torch.arange(sequences.tokens.shape[1]) < rearrange(as_index(sequences.lengths), "r -> r 1")
    read = rearrange(sequences.tokens.where(inside & ~sequences.scored, -1), "(k b) n -> k b n", k=num_candidates)
    alike = (read == read[0]).all(dim=0) & (read[0] != -1)
    sequences.prompt_lengths = alike.long().cumprod(dim=1).sum(dim=1).tolist()
    return sequences


def _without_padding(tokens: Int[Tensor, "r n"], present: Bool[Tensor, "r n"], scored: Bool[Tensor, "r n"]) -> Sequences:
    """Sequences that are not known to share anything: present tokens moved to the front, in order."""
    assert not (scored & ~present).any(), "a token can only be scored where it is present"
    order = torch.argsort((~present).byte(), dim=1, stable=True)
    lengths: list[int] = present.sum(dim=1).tolist()
    order = order[:, : max(lengths, default=0)]
    target = scored.gather(1, order)
    if target.shape[1] and target[:, 0].any():
        row = int(target[:, 0].nonzero()[0])
        raise ValueError(f"row {row} has an empty prompt: nothing predicts its first token; begin prompts with a start token")
    slots = order + tokens.shape[1] * rearrange(torch.arange(len(tokens)), "r -> r 1")
    return Sequences(tokens.gather(1, order) * present.gather(1, order), target, slots, lengths, [0] * len(tokens))


def as_index(items: list[int]) -> Int[Tensor, " n"]:
    return torch.tensor(items, dtype=torch.long)
