"""Whether a layout may be used with a model: found out by trying, for a wrong one would be wrong silently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import Layout, SharesPrompt, planned
from dpo_lab.scoring.layouts.choose import device_of, offered
from dpo_lab.scoring.logps import Scoring, evaluating, score
from dpo_lab.seeding import generator

LARGEST_DIFFERENCE = 3e-4
"""Relative. Exact layouts are some ten float32 roundings apart (x-transformers rounds float64 to it, too), wrong ones 1e-2."""
SMALLEST_SHARE = 1e-3
"""Gradients smaller than so much of the largest parameter's are measured by that: some are nothing but rounding."""


def trusted(model: nn.Module, layout: Layout, tell: Callable[[str], None]) -> tuple[Layout, ...]:
    """What may stand in for `layout`: those of its layouts whose scores and gradients on a random batch are right.

    Right is what the model's own logits say, every candidate in a row of its own. `tell` is given the reason for each layout
    that is not. A model that cannot share prompts gets rows without a word.
    """
    if not isinstance(model, SharesPrompt):
        return (Layout.rows,)
    # Rows of a model whose head can be split off are its own logits by contract: see `hidden`.
    wanted = [one for one in (offered(model) if layout is Layout.auto else (layout,)) if one is not Layout.rows]
    found = differences(model, wanted, model)
    for one, reason in found.items():
        if reason is not None:
            tell(f"compute.layout={one.value} is not used with this model: {reason}")
    passed = tuple(one for one, reason in found.items() if reason is None)
    return passed if passed and layout is not Layout.auto else (Layout.rows, *passed)


def differences(model: nn.Module, layouts: Sequence[Layout], plain: nn.Module) -> dict[Layout, str | None]:
    """Of each layout, how far its scores or gradients are from those of the logits of `plain`, if further than rounding.

    `plain` is the same network, of which nothing but its logits is asked.
    """
    with evaluating(model), _in_single_precision(model), torch.autocast(device_of(model).type, enabled=False):
        try:
            batch = random_batch(plain)
            right = [] if batch is None else _scores_and_gradients(_Plain(plain), batch, Layout.rows)
        except Exception as error:  # of whatever make; with its own input it may well work
            return dict.fromkeys(layouts, f"it cannot be tried: {type(error).__name__} {error}".splitlines()[0][:120])
        if batch is None:
            return dict.fromkeys(layouts, "its context has no room for a prompt and completions of two tokens")
        return {layout: _difference(model, batch, layout, right) for layout in layouts}


class _Plain(nn.Module):
    """A model that is nothing but its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)


def _difference(model: nn.Module, batch: CandidateBatch, layout: Layout, right: Sequence[Tensor]) -> str | None:
    try:
        if planned([model], batch, [layout]).layout is not layout:
            return "its context has no room for them"
        found = _scores_and_gradients(model, batch, layout)
    except Exception as error:  # whatever a model of any make raises, its plain route still works
        return f"{type(error).__name__} {error}".splitlines()[0][:120]
    # Each parameter by itself: what an option does may be small beside the gradients of embedding and head.
    least = SMALLEST_SHARE * torch.stack([gradient.norm() for gradient in right[1:]] or [right[0].norm()]).max()
    for ours, theirs in zip(found, right, strict=True):
        apart = float((ours - theirs).norm() / theirs.norm().clamp(min=float(least)))
        if not apart <= LARGEST_DIFFERENCE:
            what = "scores" if theirs is right[0] else "gradients"
            return f"its {what} would be {apart:.2g} away from the right ones, relative to their size"
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
    """Half-precision weights in float32 inside the block, where rounding hides no mistake; afterwards themselves again."""
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
