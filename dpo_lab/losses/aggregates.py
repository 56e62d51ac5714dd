"""How the tokens of a completion are counted: every aggregate is one weight for each token."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dpo_lab.records import Aggregate


def token_weights(
    aggregate: Aggregate, mask: Bool[Tensor, "k b m"], ids: Int[Tensor, " b"], *, step: int = 0, rest: float = 1.0
) -> Float[Tensor, "k b m"] | None:
    """Weight of each token in the aggregated log-probability; None stands for 1 at every token.

    `rest` is what `shared` gives a token beyond the prompt's shortest candidate. `sampled` draws by a hash of the prompt's id,
    the step, the candidate and the token's index: the same whatever batch the prompt is in.
    """
    if aggregate is Aggregate.sum:
        return None
    if aggregate is Aggregate.mean:
        return mean_weights(mask)
    index = mask.cumsum(dim=2) - 1  # among real tokens: padding may stand anywhere
    shortest = rearrange(reduce(mask.sum(dim=2), "k b -> b", "min"), "b -> 1 b 1")
    if aggregate is Aggregate.shared:
        return mask * torch.where(index < shortest, 1.0, rest)
    candidate = rearrange(torch.arange(len(mask), device=mask.device), "k -> k 1 1")
    lottery = _hashed(_hashed(_hashed(_hashed(rearrange(ids, "b -> 1 b 1")) + step) + candidate) + index)
    ranks = lottery.masked_fill(~mask, torch.iinfo(torch.int64).max).argsort(dim=2).argsort(dim=2)
    return (mask & (ranks < shortest)).float()


def mean_weights(mask: Bool[Tensor, "k b m"]) -> Float[Tensor, "k b m"]:
    """Each token's share of its completion. An empty completion has the mean 0, as it has the sum 0."""
    # In float64: a weight is rounded once, where it meets the log-probability.
    return mask / mask.sum(dim=2, keepdim=True, dtype=torch.float64).clamp(min=1)


def uniforms(ids: Int[Tensor, " b"], step: int, num: int) -> Float[Tensor, "num b"]:
    """`num` float64 numbers in (0, 1) for each prompt, by a hash of its id and the step: the same whatever batch it is in."""
    index = rearrange(torch.arange(num, device=ids.device), "n -> n 1")
    return ((_hashed(_hashed(_hashed(ids) + step) + index) >> 11).double() + 0.5) / 2**52


def _hashed(x: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
    """splitmix64's mixing of 64 bits, but the sign (Steele et al. 2014): neighbours become unrelated."""
    x = x + -7046029254386353131  # 0x9E3779B97F4A7C15 and the two below, as signed numbers
    x = (x ^ _shifted(x, 30)) * -4658895280553007687
    x = (x ^ _shifted(x, 27)) * -7723592293110705685
    return (x ^ _shifted(x, 31)) & torch.iinfo(torch.int64).max


def _shifted(x: Int[Tensor, "*s"], by: int) -> Int[Tensor, "*s"]:
    return (x >> by) & ((1 << (64 - by)) - 1)  # >> alone would drag the sign along
