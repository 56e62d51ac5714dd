"""The check that a layout is exact for a model: scores and gradients of a random batch against the model's own logits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import Layout, SharesPrompt, plan_batch
from dpo_lab.scoring.layouts.choosing import available_layouts, device_of
from dpo_lab.scoring.logps import Scoring, evaluating, score
from dpo_lab.seeding import generator

log = logging.getLogger(__name__)
LARGEST_DIFFERENCE = 3e-4
"""Relative. Exact layouts are some ten float32 roundings apart (x-transformers rounds float64 to it, too), wrong ones 1e-2."""
SMALLEST_SHARE = 1e-3
"""Gradients below this share of the largest parameter's are compared with that share: some are nothing but rounding."""


def exact_layouts(
    model: nn.Module, layout: Layout = Layout.auto, warn: Callable[[str], None] = log.warning
) -> tuple[Layout, ...]:
    """The layouts that are exact for a model and may be used where `layout` is asked for: `Scoring(exact_layouts(model))`.

    Exact are those whose scores and gradients on a random batch are those of the model's own logits, every candidate in a row
    of its own. `warn` is called with the reason for each layout that is left out. A model that cannot share prompts gets rows
    without a word.
    """
    if not isinstance(model, SharesPrompt):
        return (Layout.rows,)
    # Rows of a model whose head can be split off are its own logits by contract: see `hidden`.
    candidates = available_layouts(model) if layout is Layout.auto else (layout,)
    errors = layout_errors(model, [one for one in candidates if one is not Layout.rows], model)
    for one, error in errors.items():
        if error is not None:
            warn(f"compute.layout={one.value} is not used with this model: {error}")
    exact = tuple(one for one, error in errors.items() if error is None)
    return exact if exact and layout is not Layout.auto else (Layout.rows, *exact)


def layout_errors(model: nn.Module, layouts: Sequence[Layout], plain: nn.Module) -> dict[Layout, str | None]:
    """What is wrong with each layout's scores or gradients; None where they are those of `plain` but for rounding.

    `plain` is the same network, of which nothing but its logits is used.
    """
    with evaluating(model), _in_single_precision(model), torch.autocast(device_of(model).type, enabled=False):
        try:
            batch = random_batch(plain)
            expected = [] if batch is None else _scores_and_gradients(_LogitsOnly(plain), batch, Layout.rows)
        except Exception as error:  # any model, any error; with its own input it may well work
            return dict.fromkeys(layouts, f"it cannot be tried: {type(error).__name__} {error}".splitlines()[0][:120])
        if batch is None:
            return dict.fromkeys(layouts, "its context has no room for a prompt and completions of two tokens")
        return {layout: _layout_error(model, batch, layout, expected) for layout in layouts}


class _LogitsOnly(nn.Module):
    """A model without anything but its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)


def _layout_error(model: nn.Module, batch: CandidateBatch, layout: Layout, expected: Sequence[Tensor]) -> str | None:
    try:
        if plan_batch([model], batch, [layout]).layout is not layout:
            return "its context has no room for them"
        computed = _scores_and_gradients(model, batch, layout)
    except Exception as error:  # any model, any error: its plain route still works
        return f"{type(error).__name__} {error}".splitlines()[0][:120]
    # Each parameter by itself: what an option does may be small beside the gradients of embedding and head.
    least = SMALLEST_SHARE * torch.stack([gradient.norm() for gradient in expected[1:]] or [expected[0].norm()]).max()
    for ours, right in zip(computed, expected, strict=True):
        relative = float((ours - right).norm() / right.norm().clamp(min=float(least)))
        if not relative <= LARGEST_DIFFERENCE:
            what = "scores" if right is expected[0] else "gradients"
            return f"its {what} would be {relative:.2g} away from the right ones, relative to their size"
    return None


def random_batch(model: nn.Module) -> CandidateBatch | None:
    """Three prompts of unequal length with three completions each, as far as the model's context allows."""
    draw = generator(0, "trying a layout")
    context = getattr(model, "max_seq_len", None) or 64
    longest, after = min(9, context // 2), min(6, context - context // 2)
    if longest < 2 or after < 2:
        return None
    with torch.no_grad():
        vocabulary = model(torch.zeros(1, 1, dtype=torch.long, device=device_of(model))).shape[-1]
    lengths, ends = torch.tensor([2, longest, (2 + longest) // 2]), torch.randint(1, after + 1, (3, 3), generator=draw)
    ends[0, 0], ends[1, 0], ends[2, 1] = after, 1, after
    prompt = torch.randint(0, vocabulary, (3, longest), generator=draw)
    completions = torch.randint(0, vocabulary, (3, 3, after), generator=draw)
    return CandidateBatch(
        prompt=prompt,
        prompt_mask=torch.arange(longest) < lengths[:, None],
        completions=completions,
        mask=torch.arange(after) < ends[:, :, None],
        ids=torch.arange(3),
        confidence=torch.ones(3),
    ).to(device_of(model))


def _scores_and_gradients(model: nn.Module, batch: CandidateBatch, layout: Layout) -> list[Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        scores = score(model, batch, Scoring((layout,)))
        if not parameters:
            return [scores]
        weights = torch.linspace(-1, 2, scores.numel(), device=scores.device, dtype=scores.dtype).reshape(scores.shape)
        gradients = torch.autograd.grad((weights * scores).sum(), parameters, allow_unused=True, materialize_grads=True)
    return [scores.detach(), *gradients]


@contextmanager
def _in_single_precision(model: nn.Module) -> Iterator[None]:
    """A block in which half-precision weights are float32, where rounding hides no mistake; afterwards they are as before."""
    kept = [
        (tensor, tensor.data)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.dtype in (torch.bfloat16, torch.float16)
    ]
    try:
        for tensor, data in kept:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data
