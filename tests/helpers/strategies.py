"""What the property tests draw from: comparisons as texts and in every layout, and models small enough to enumerate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from hypothesis import strategies as st
from torch import Tensor, nn

from dpo_lab.check.strategies import comparisons as comparisons  # what losses are tested on, for tests of other things
from dpo_lab.check.strategies import configured as configured
from dpo_lab.models.transformer import TransformerPolicy, TransformerSpec
from dpo_lab.records import CandidateBatch

VOCAB = 5


@dataclass
class Texts:
    """A comparison as plain lists, before any layout: prompts[b], completions[k][b]."""

    prompts: list[list[int]]
    completions: list[list[list[int]]]


class RecurrentTable(nn.Module):
    """Float64 logits that depend on the whole prefix and on its order, without any code shared with the transformer."""

    def __init__(self, vocab: int = VOCAB, dim: int = 6, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        weights = [
            torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((vocab, dim), (dim, dim), (dim, vocab))
        ]
        self.embedding, self.step, self.out = (nn.Parameter(w / 2) for w in weights)

    def forward(self, tokens: Tensor) -> Tensor:
        state, logits = self.embedding.new_zeros(len(tokens), self.step.shape[0]), []
        for t in range(tokens.shape[1]):
            state = torch.tanh(state @ self.step + self.embedding[tokens[:, t]])
            logits.append(state @ self.out)
        return torch.stack(logits, dim=1) if logits else self.out.new_zeros(len(tokens), 0, self.out.shape[1])


class ForwardOnly(nn.Module):
    """A model without its split head and without its cached decoding: plain logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        if hasattr(model, "max_seq_len"):
            self.max_seq_len = model.max_seq_len

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)


def numbers_of(state: Mapping[str, float | Tensor]) -> dict[str, float]:
    """A loss's state, read from its device."""
    return {name: float(number) for name, number in state.items()}


def tiny_transformer(vocab: int = VOCAB, seed: int = 0, **fields: Any) -> TransformerPolicy:
    """The real model in float64, its weights spread far enough that no two prefixes predict alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TransformerSpec(**({"dim": 16, "depth": 1, "heads": 2, "context": 24} | fields)).build(vocab).double()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def models() -> st.SearchStrategy[nn.Module]:
    seeds = st.integers(0, 3)
    return st.one_of(
        seeds.map(lambda seed: RecurrentTable(seed=seed)),
        st.builds(lambda seed, tie: tiny_transformer(seed=seed, tie_embedding=tie), seeds, st.booleans()),
    )


@st.composite
def texts(draw: st.DrawFn, k: int | None = None, vocab: int = VOCAB, shortest: int = 0, longest: int = 4) -> Texts:
    """Prompts of 1 to 4 tokens, each with k completions (of 1, 2 or 4) of `shortest` to `longest` tokens."""
    k = draw(st.sampled_from([1, 2, 4])) if k is None else k
    b = draw(st.integers(1, 3))
    token = st.integers(0, vocab - 1)
    completion = st.lists(token, min_size=shortest, max_size=longest)
    return Texts(
        prompts=[draw(st.lists(token, min_size=1, max_size=4)) for _ in range(b)],
        completions=[[draw(completion) for _ in range(b)] for _ in range(k)],
    )


@st.composite
def layouts(draw: st.DrawFn, content: Texts, side: str | None = None) -> CandidateBatch:
    """`content` as tensors. Padding stands left, right or anywhere, and holds any token, the end token or -100."""
    side = side or draw(st.sampled_from(["left", "right", "anywhere", "tight"]))
    slack = 0 if side == "tight" else draw(st.integers(0, 3))
    padding = draw(st.sampled_from([-100, *range(VOCAB)]))

    def placed(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows), default=0) + slack
        tokens = torch.full((len(rows), width), padding)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, values in enumerate(rows):
            columns = list(range(width))
            if side == "anywhere":
                columns = sorted(draw(st.permutations(columns))[: len(values)])
            columns = columns[width - len(values) :] if side == "left" else columns[: len(values)]
            mask[row, columns] = True
            tokens[row, columns] = torch.tensor(values, dtype=torch.long)
        return tokens, mask

    k, b = len(content.completions), len(content.prompts)
    prompt, prompt_mask = placed(content.prompts)
    completions, mask = placed([row for candidate in content.completions for row in candidate])
    return CandidateBatch(
        prompt=prompt,
        prompt_mask=prompt_mask,
        completions=rearrange(completions, "(k b) m -> k b m", k=k),
        mask=rearrange(mask, "(k b) m -> k b m", k=k),
        ids=torch.arange(b),
        confidence=torch.ones(b, dtype=torch.float64),
    )


@st.composite
def batches(draw: st.DrawFn, **limits: Any) -> CandidateBatch:
    return draw(layouts(draw(texts(**limits))))


def oracle_score(model: nn.Module, batch: CandidateBatch) -> Tensor:
    """Scores by Python loops in float64: each prefix alone through the model, one logit at a time."""
    found = torch.zeros(batch.completions.shape, dtype=torch.float64)
    with torch.no_grad():
        for c, candidate in enumerate(batch.completions.tolist()):
            for b, row in enumerate(candidate):
                prefix = [t for t, real in zip(batch.prompt[b].tolist(), batch.prompt_mask[b].tolist(), strict=True) if real]
                for i, token in enumerate(row):
                    if batch.mask[c, b, i]:
                        logits = model(torch.tensor([prefix]))[0, -1].double().tolist()
                        top = max(logits)
                        found[c, b, i] = logits[token] - top - math.log(sum(math.exp(x - top) for x in logits))
                        prefix.append(token)
    return found
