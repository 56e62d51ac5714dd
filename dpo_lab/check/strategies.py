"""Hypothesis strategies: losses with drawn settings, and comparisons that hold everything a loss may read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from einops import rearrange
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from torch import Tensor

from dpo_lab.check.transforms import rows_of
from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.losses.divergences import Divergence
from dpo_lab.losses.margins import Margin
from dpo_lab.losses.options import Weighting
from dpo_lab.records import Aggregate, CandidateBatch, Logps

Draw = Callable[..., Any]  # hypothesis' own DrawFn is a protocol that cannot be checked at run time
Loss = type[PreferenceLoss]
Drawn = tuple[PreferenceLoss, Logps, CandidateBatch]

OPTIONS: dict[str, list[Any]] = {
    "beta": [0.05, 0.1, 0.5, 1.0, 5.0],
    "aggregate": list(Aggregate),
    "shared_rest": [0.5, 0.0, 1.0],
    "divergence": list(Divergence),
    "divergence_alpha": [0.5, 0.1, 1.0],
    "label_smoothing": [0.0, 0.1, 0.4],
    "weighting": list(Weighting),
    "margin": [Margin(), Margin(0.5), Margin(length_penalty=0.25), Margin(0.1, -0.5, 0.3, 2.0)],
    "nll": [0.0, 1.5],
}
"""Of every shared setting some values, the plainest first."""


def complete(
    policy: Float[Tensor, "k b m"],
    reference: Float[Tensor, "k b m"],
    mask: Bool[Tensor, "k b m"],
    confidence: Float[Tensor, " b"] | None = None,
    seed: int = 0,
    utilities: bool = False,
) -> tuple[Logps, CandidateBatch]:
    """These log-probabilities (0 at padding), and from the seed all else that a loss may read.

    Scores fall from candidate to candidate, the first one is desirable and the others are not (of single completions any may
    be), collisions are those of distributions that hold the policy's tokens. Utilities, where asked for, stand for confidence.
    """
    k, b, m = policy.shape
    wide = policy.dtype if policy.dtype == torch.float64 else torch.float32
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    policy, reference = policy.where(mask, 0.0), reference.where(mask, 0.0)
    other_mask = (uniform(1, b, m) < 0.6) | (torch.arange(m) == 0)
    other_policy, other_reference = (-0.1 - 5 * uniform(1, b, m) for _ in range(2))
    # A token's own p^2 is part of the sum over the vocabulary.
    collision = uniform(k, b, m) * (2 * policy.detach().double()).clamp(min=-5)
    kl = 2 * uniform(k, b, m) * mask
    steps = 0.1 + 2 * uniform(k, b)
    batch = CandidateBatch(
        prompt=torch.zeros(b, 1, dtype=torch.long),
        prompt_mask=torch.ones(b, 1, dtype=torch.bool),
        completions=torch.zeros(k, b, m, dtype=torch.long),
        mask=mask,
        ids=torch.arange(b),
        confidence=torch.ones(b, dtype=wide) if confidence is None else confidence,
        utilities=(4 * uniform(k, b) - 2).to(wide) if utilities else None,
        scores=(steps.flip(0).cumsum(dim=0).flip(0) - 1).to(wide),
        desirable=uniform(1, b) < 0.5 if k == 1 else rearrange(torch.arange(k) == 0, "k -> k 1").expand(k, b),
        margin=(2 * uniform(b) - 1).to(wide),
    )
    mismatched = Logps(
        (other_policy * other_mask).to(policy.dtype), (other_reference * other_mask).to(policy.dtype), other_mask
    )
    logps = Logps(policy, reference, mask, kl=kl.to(policy.dtype), collision=collision.to(policy.dtype), mismatched=mismatched)
    return logps, batch


@st.composite
def comparisons(draw: Draw, k: int = 2, uncertain: bool = False, lowest: float = -8.0) -> tuple[Logps, CandidateBatch]:
    """Float64 log-probabilities of 1 to 3 prompts' candidates, of 1 to 3 tokens each, padding anywhere."""
    b, m = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    nats = st.floats(lowest, -0.03125, width=32)
    policy, reference = (
        torch.tensor(draw(st.lists(nats, min_size=k * b * m, max_size=k * b * m)), dtype=torch.float64).reshape(k, b, m)
        for _ in range(2)
    )
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=k * b * m, max_size=k * b * m))).reshape(k, b, m)
    mask[:, :, draw(st.integers(0, m - 1))] = True  # at least one token
    chances = st.floats(0.0, 1.0) if uncertain else st.just(1.0)
    confidence = torch.tensor(draw(st.lists(chances, min_size=b, max_size=b)), dtype=torch.float64)
    utilities = uncertain and draw(st.booleans())
    return complete(policy, reference, mask, confidence, seed=draw(st.integers(0, 99)), utilities=utilities)


def wide_pairs(k: int = 2, b: int = 256, m: int = 4, seed: int = 0) -> tuple[Logps, CandidateBatch]:
    """Many comparisons from near 0 nats to hundreds: where a law that does not hold shows itself."""
    draw = torch.Generator().manual_seed(seed)
    scale = rearrange(10 ** (4 * torch.rand(b, generator=draw, dtype=torch.float64) - 2), "b -> b 1")
    policy, reference = (-scale * torch.rand(k, b, m, generator=draw, dtype=torch.float64) for _ in range(2))
    mask = (torch.rand(k, b, m, generator=draw) < 0.6) | (torch.arange(m) == 0)
    return complete(policy, reference, mask, seed=seed)


def numbers_of_candidates(loss_class: Loss, k: tuple[int, ...] = (1, 2, 3)) -> list[int]:
    """Those of `k` that the loss takes, 2 first."""
    most = loss_class.max_candidates or 3
    return [number for number in (2, 1, 3) if number in k and loss_class.min_candidates <= number <= most]


def default(loss_class: Loss) -> PreferenceLoss:
    """The loss with its default settings."""
    settings: dict[str, Any] = {}
    return loss_class(**settings)


def sample(k: int) -> tuple[Logps, CandidateBatch]:
    """The moderate ones of the wide comparisons: lengths differ, nothing is saturated."""
    logps, batch = wide_pairs(k=k, b=96)
    return rows_of(logps, batch, torch.where(logps.policy.abs().sum(dim=(0, 2)) < 40)[0])


def fixed(loss_class: Loss, k: tuple[int, ...]) -> st.SearchStrategy[Drawn]:
    """The loss with its default settings, on a sample where every setting shows: there is nothing to draw."""
    return st.builds(lambda: (default(loss_class), *sample(numbers_of_candidates(loss_class, k)[0])))


def configured(loss_class: Loss, **fixed: Any) -> st.SearchStrategy[PreferenceLoss]:
    """The loss with any of the shared settings that it supports; `fixed` ones as they are, unless it does not support them."""
    return _configured(loss_class, tuple(OPTIONS), fixed)


def strengths(loss_class: Loss) -> st.SearchStrategy[PreferenceLoss]:
    """The loss with its default settings, but for any beta and any aggregate that it supports."""
    return _configured(loss_class, ("beta", "aggregate"), {})


@st.composite
def _configured(draw: Draw, loss_class: Loss, names: tuple[str, ...], fixed: dict[str, Any]) -> PreferenceLoss:
    known = {setting.name for setting in fields(loss_class)}
    loss = loss_class(**{name: value for name, value in fixed.items() if name in known and name not in loss_class.unsupported})
    for name in names:
        # A third of the settings at a time differs from the default: what fails then says which of them it is.
        if name not in fixed and name in known and draw(st.integers(0, 2)) > (name not in ("beta", "aggregate")):
            loss = admitted(loss, name, draw(st.sampled_from(OPTIONS[name]))) or loss
    return loss


def admitted(loss: PreferenceLoss, name: str, value: Any) -> PreferenceLoss | None:
    """The same loss with another setting, or None where it does not support that."""
    try:
        return replace(loss, **{name: value})
    except ValueError:
        return None


@st.composite
def cases(draw: Draw, /, loss_class: Loss, k: tuple[int, ...] = (1, 2, 3), uncertain: bool = True, **fixed: Any) -> Drawn:
    """A loss with any settings, and a comparison of any number of candidates that it takes."""
    numbers = numbers_of_candidates(loss_class, k)
    loss = draw(configured(loss_class, **fixed))
    return (loss, *draw(comparisons(k=draw(st.sampled_from(numbers)), uncertain=uncertain)))


@st.composite
def promises(draw: Draw, loss_class: Loss, k: tuple[int, ...] = (1, 2, 3), uncertain: bool = True) -> Drawn:
    """A loss with the settings that its declared laws are about, and a comparison."""
    numbers = numbers_of_candidates(loss_class, k)
    loss = draw(strengths(loss_class))
    return (loss, *draw(comparisons(k=draw(st.sampled_from(numbers)), uncertain=uncertain)))
