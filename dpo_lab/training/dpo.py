"""DPO as one module over token ids: the interface of x_transformers.dpo.DPO, every completion token scored at its own index."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from x_transformers import TransformerWrapper

from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.models.copies import freeze, independent_copy
from dpo_lab.models.transformer import TransformerPolicy
from dpo_lab.records import Aggregate, CandidateBatch, Logps
from dpo_lab.scoring.layouts import Layout
from dpo_lab.scoring.layouts.choosing import available_layouts
from dpo_lab.scoring.logps import evaluating, token_logps
from dpo_lab.scoring.self_check import layout_errors

log = logging.getLogger(__name__)


class DPO(nn.Module):
    """-log sigmoid(beta * (chosen - rejected log-ratio, each the mean over the completion's tokens)), mean over pairs.

    Rafailov et al. 2023, arXiv:2305.18290, eq. 7, length-normalised as in Lambert et al. 2024, arXiv:2411.15124, because the
    class it replaces is. The command line's loss=dpo takes sums unless loss.aggregate=mean: where completions have n tokens,
    beta here is beta / n there, so .1 is nearly flat on long ones, and 2-10 is usual.

    `policy_model` is `model` itself; `ref_model` is a frozen copy that shares nothing with it. Only the policy shows up in
    `parameters()`; `state_dict()` holds both. `dropout=True` leaves the policy's dropout as its mode has it; otherwise the
    policy is scored without, and the loss of an untrained policy is log 2 exactly.

    Where an x-transformers model allows it, which the first call finds out by trying, the head is applied to completions only
    and what the two sequences of a pair begin with alike is read once.
    """

    def __init__(self, model: nn.Module, *, beta: float = 0.1, pad_id: int | None = None, dropout: bool = False) -> None:
        super().__init__()
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be a finite number > 0, got {beta}; on means per token 2-10 is usual")
        self.policy_model = model
        self.ref_model = freeze(independent_copy(model))
        self.beta = beta
        self.pad_id = pad_id
        self.dropout = dropout
        self._layouts: tuple[Layout, ...] | None = None
        """Ways to run the models that give their own scores; None: not tried yet."""

    # Plain Tensors: a wrong shape or type is the caller's mistake, and is a ValueError whether or not annotations are enforced.
    def forward(
        self,
        preferred_seq: Tensor,
        unpreferred_seq: Tensor,
        *,
        prompt_mask: Tensor,
        preferred_seq_mask: Tensor | None = None,
        unpreferred_seq_mask: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """The mean loss of b pairs of n tokens each, float32 (float64 where the model computes in it).

        All arguments are (b, n). The masks are Bool: `prompt_mask` true at the prompt in both sequences, in any pattern; a
        sequence's mask true at its real tokens, prompt included. Padding may stand anywhere and is never read. Without a
        mask everything that is not `pad_id` is real; without `pad_id` everything is.

        Terms are the real tokens outside the prompt. A row's first real token has nothing before it: where the prompt mask
        does not cover it, it is context and no term. Raises ValueError where a completion is left without a term.
        """
        _check_tokens("preferred_seq", preferred_seq, preferred_seq)
        _check_tokens("unpreferred_seq", unpreferred_seq, preferred_seq)
        _check_mask("prompt_mask", prompt_mask, preferred_seq)
        present = torch.stack(
            (
                self._present("preferred_seq", preferred_seq, preferred_seq_mask),
                self._present("unpreferred_seq", unpreferred_seq, unpreferred_seq_mask),
            )
        )
        tokens = torch.stack((preferred_seq, unpreferred_seq))
        batch = CandidateBatch(
            prompt=preferred_seq,
            prompt_mask=prompt_mask,
            completions=tokens,
            mask=_terms(present, prompt_mask),
            ids=torch.arange(len(prompt_mask), device=tokens.device),
            confidence=torch.ones(len(prompt_mask), device=tokens.device),
        )
        logps = Logps(self._policy_logps(batch, present), self._reference_logps(batch, present), batch.mask)
        loss = DPOLoss(beta=float(self.beta)).with_settings(aggregate=Aggregate.mean)
        return loss(logps, batch).mean()

    def _present(self, name: str, seq: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            _check_mask(f"{name}_mask", mask, seq)
            return mask
        return torch.ones_like(seq, dtype=torch.bool) if self.pad_id is None else seq != self.pad_id

    def _policy_logps(self, batch: CandidateBatch, present: Bool[Tensor, "k b n"]) -> Float[Tensor, "k b n"]:
        if self.dropout:
            return self._score(self.policy_model, batch, present)
        with evaluating(self.policy_model):
            return self._score(self.policy_model, batch, present)

    @torch.no_grad()
    def _reference_logps(self, batch: CandidateBatch, present: Bool[Tensor, "k b n"]) -> Float[Tensor, "k b n"]:
        with evaluating(self.ref_model):  # also where someone has called ref_model.train()
            return self._score(self.ref_model, batch, present)

    def _score(self, model: nn.Module, batch: CandidateBatch, present: Bool[Tensor, "k b n"]) -> Float[Tensor, "k b n"]:
        if self._layouts is None:
            self._layouts = _layouts(self.policy_model)
        tokens, real, terms = (rearrange(t, "k b n -> (k b) n") for t in (batch.completions, present, batch.mask))
        # A view, not a submodule: the state dict stays that of the models.
        view = TransformerPolicy(model) if self._layouts and isinstance(model, TransformerWrapper) else model
        logps = token_logps(view, tokens, real, terms, batch.num_candidates, self._layouts or (Layout.rows,))
        return rearrange(logps, "(k b) n -> k b n", k=batch.num_candidates)

    def train(self, mode: bool = True) -> DPO:
        """Sets the policy's mode; the reference stays in evaluation mode."""
        super().train(mode)
        self.ref_model.eval()
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The policy's parameters, and so what optimizers, `zero_grad()` and `requires_grad_()` act on."""
        if recurse:  # this module itself has none
            inner = f"{prefix}.policy_model" if prefix else "policy_model"
            yield from self.policy_model.named_parameters(inner, recurse, remove_duplicate)

    def __deepcopy__(self, memo: dict[int, Any]) -> DPO:
        # The contents travel in a plain module, for independent_copy would call this method again.
        contents = nn.Module.__new__(nn.Module)
        vars(contents).update(vars(self))
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(independent_copy(contents, memo)))
        memo[id(self)] = twin
        return twin


def _layouts(model: nn.Module) -> tuple[Layout, ...]:
    """The layouts that give a model's own scores; none where its head cannot even be split off."""
    if not isinstance(model, TransformerWrapper):
        return ()
    errors = layout_errors(TransformerPolicy(model), available_layouts(model), model)
    for layout, reason in errors.items():
        if reason is not None:
            log.info("layout %s is not used with this model: %s", layout.value, reason)
    return () if errors[Layout.rows] is not None else tuple(layout for layout, reason in errors.items() if reason is None)


def _terms(present: Bool[Tensor, "k b n"], prompt_mask: Bool[Tensor, "b n"]) -> Bool[Tensor, "k b n"]:
    """The tokens to score: real, outside the prompt, and not the first real token of their row."""
    first = present & (present.cumsum(dim=-1) == 1)
    # A prompt that is masked away would silently make context of the first completion token.
    lost = (first & ~prompt_mask & (prompt_mask.cumsum(dim=-1) > 0)).any(dim=-1)
    terms = present & ~prompt_mask & ~first
    for name, no_prompt, any_term in zip(("preferred", "unpreferred"), lost, terms.any(dim=-1), strict=True):
        if no_prompt.any():
            raise ValueError(
                f"{name}_seq row {_first_row(no_prompt)} starts with a completion token although prompt_mask covers positions "
                f"before it: {name}_seq_mask (without it: != pad_id) must be true at the prompt too"
            )
        if not any_term.all():
            raise ValueError(
                f"{name}_seq row {_first_row(~any_term)} has no completion token to score: leave the pair out, or make "
                f"{name}_seq_mask (without it: != pad_id) true and prompt_mask false at its completion"
            )
    return terms


def _check_tokens(name: str, seq: Tensor, like: Tensor) -> None:
    if seq.ndim != 2 or not seq.numel():
        raise ValueError(f"{name} must be (pairs, tokens), at least one of each, got shape {tuple(seq.shape)}")
    if seq.dtype != torch.int64:
        raise ValueError(f"{name} must hold token ids (torch.int64), got {seq.dtype}; convert with .long()")
    if seq.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape of preferred_seq {tuple(like.shape)}, got {tuple(seq.shape)}; pad the shorter one"
        )


def _check_mask(name: str, mask: Tensor, seq: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be a mask of torch.bool, got {mask.dtype}; convert with .bool()")
    if mask.shape != seq.shape:
        raise ValueError(f"{name} must have the shape of the sequences {tuple(seq.shape)}, got {tuple(mask.shape)}")


def _first_row(rows: Bool[Tensor, " b"]) -> int:
    return int(rows.nonzero()[0])
