"""Changes of a comparison: rows chosen, candidates swapped, log-probabilities lowered, padding added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import CandidateBatch, Logps, upcast


def rows_of(logps: Logps, batch: CandidateBatch, rows: Int[Tensor, " n"]) -> tuple[Logps, CandidateBatch]:
    """The given prompts, with all that is known of them."""
    by_prompt = {"prompt", "prompt_mask", "ids", "confidence", "margin"}
    tensors = batch.tensors()
    kept: dict[str, Any] = {name: tensor[rows] if name in by_prompt else tensor[:, rows] for name, tensor in tensors.items()}
    return _each(logps, lambda tensor: tensor[:, rows]), replace(batch, **kept)


def swapped(logps: Logps, batch: CandidateBatch) -> tuple[Logps, CandidateBatch]:
    """The candidates in reverse order, each with its own score: the labels are wrong now."""
    flipped: dict[str, Any] = {
        name: tensor.flip(0) for name, tensor in batch.tensors().items() if name in ("completions", "mask", "scores")
    }
    return replace(_each(logps, lambda tensor: tensor.flip(0)), mismatched=logps.mismatched), replace(batch, **flipped)


def scaled(logps: Logps, by: float) -> Logps:
    """All log-probabilities, and the divergences of them, times `by`."""
    names = ("policy", "reference", "kl")
    times: dict[str, Any] = {name: by * getattr(logps, name) for name in names if getattr(logps, name) is not None}
    return replace(logps, **times, mismatched=None if logps.mismatched is None else scaled(logps.mismatched, by))


def lowered(
    loss: PreferenceLoss,
    logps: Logps,
    batch: CandidateBatch,
    by: Float[Tensor, " b"],
    candidate: int | None = None,
    which: tuple[str, ...] = ("policy",),
) -> Logps:
    """The aggregated log-probability of one candidate (None: of all) is lower by `by`, under the policy or the reference.

    Only ever lower: a log-probability above 0 does not exist, and some losses rely on that.
    """
    weights = loss.token_weights(logps, batch)
    weights = logps.mask.to(by.dtype) if weights is None else weights.to(by.dtype)
    per_token = weights * rearrange(by, "b -> 1 b 1") / reduce(weights**2, "k b m -> k b 1", "sum").clamp(min=1e-12)
    if candidate is not None:
        per_token = per_token * rearrange(torch.arange(len(per_token)) == candidate, "k -> k 1 1")
    return replace(logps, **{name: getattr(logps, name) - per_token for name in which})


def padded(logps: Logps, batch: CandidateBatch, at: int, num: int = 3) -> tuple[Logps, CandidateBatch]:
    """`num` columns of padding inserted before column `at`, in the mismatched completions too."""

    def widened(tensor: Tensor) -> Tensor:
        columns = tensor.new_zeros((*tensor.shape[:2], num))
        return torch.cat((tensor[:, :, :at], columns, tensor[:, :, at:]), dim=2)

    mask, completions = widened(batch.mask), widened(batch.completions)
    return _each(logps, widened), replace(batch, mask=mask, completions=completions)


def collapsed(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch, candidate: int) -> tuple[Logps, CandidateBatch]:
    """One candidate as a single token that is as likely as the whole, as the loss aggregates."""
    aggregates = {
        "policy": logps.policy_logps(loss.token_weights(logps, batch)),
        "reference": logps.reference_logps(loss.token_weights(logps, batch)),
        "kl": None if logps.kl is None else reduce(upcast(logps.kl), "k b m -> k b", "sum"),
    }
    this = rearrange(torch.arange(len(logps.mask)) == candidate, "k -> k 1 1")
    first = logps.mask & (logps.mask.cumsum(dim=2) == 1)
    whole: dict[str, Any] = {
        name: torch.where(this, rearrange(aggregate, "k b -> k b 1") * first, getattr(logps, name))
        for name, aggregate in aggregates.items()
        if aggregate is not None
    }
    mask = torch.where(this, first, logps.mask)
    return replace(logps, **whole, mask=mask), replace(batch, mask=mask)


def converted(logps: Logps, dtype: torch.dtype) -> Logps:
    """The same numbers in another precision."""
    return _each(logps, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _each(logps: Logps, change: Callable[[Tensor], Tensor]) -> Logps:
    """The change made to every tensor, those of the mismatched completions included."""
    changed: dict[str, Any] = {name: change(value) for name, value in vars(logps).items() if isinstance(value, Tensor)}
    return replace(logps, **changed, mismatched=None if logps.mismatched is None else _each(logps.mismatched, change))
