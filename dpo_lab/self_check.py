"""Whether a layout may be used with a model: found out by trying, for a wrong one would be wrong silently."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dpo_lab.layouts import EVERY, Layout, SharesPrompt, planned
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring import Scoring, evaluating, score


def trusted(model: nn.Module, layout: Layout, tell: Callable[[str], None]) -> tuple[Layout, ...]:
    """What may stand in for `layout`: those of its layouts whose scores and gradients on a random batch are those of rows.

    `tell` is given the reason for each other one. A model that cannot share prompts gets rows without a word.
    """
    wanted = EVERY if layout is Layout.auto else (layout,)
    if not isinstance(model, SharesPrompt):
        return (Layout.rows,)
    passed = [one for one in wanted if one is Layout.rows]
    for one in (one for one in wanted if one is not Layout.rows):
        reason = difference(model, one)
        if reason is None:
            passed.append(one)
        else:
            tell(f"compute.layout={one.value} is not used with this model: {reason}")
    return tuple(passed) or (Layout.rows,)


def difference(model: nn.Module, layout: Layout) -> str | None:
    """How far the layout's scores or gradients are from those of rows, if they are further than rounding takes them."""
    batch = random_batch(model)
    if batch is None:
        return "its context has no room for a prompt and completions of two tokens"
    plain = _scores_and_gradients(model, batch, Layout.rows)
    try:
        if not type(planned([model], batch, [layout])).__name__.lower().startswith(layout.value):
            return "it cannot be laid out so"
        found = _scores_and_gradients(model, batch, layout)
    except Exception as error:  # whatever a model of any make raises, its plain route still works
        return f"{type(error).__name__} {error}".strip()
    for what, ours, theirs in zip(("scores", "gradients"), found, plain, strict=True):
        limit = torch.finfo(theirs.dtype).eps ** 0.5  # exact layouts are some 10 roundings apart, wrong ones 1e-2 and more
        apart = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
        if not apart <= limit:
            return f"its {what} are {apart:.2g} away from those of rows, relative to their size"
    return None


def random_batch(model: nn.Module) -> CandidateBatch | None:
    """Three prompts of unequal length with three completions each, as far as the model's context allows."""
    draw = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    context = getattr(model, "max_seq_len", None) or 64
    longest, after = min(9, context // 2), min(6, context - context // 2)
    if longest < 2 or after < 2:
        return None
    with torch.no_grad():
        vocabulary = model(torch.zeros(1, 1, dtype=torch.long, device=device)).shape[-1]
    lengths, ends = torch.tensor([2, longest, (2 + longest) // 2]), torch.randint(1, after + 1, (3, 3), generator=draw)
    ends[0, 0], ends[1, 0], ends[2, 1] = after, 1, after
    prompt = torch.randint(0, vocabulary, (3, longest), generator=draw)
    completions = torch.randint(0, vocabulary, (3, 3, after), generator=draw)
    batch = CandidateBatch(
        prompt=prompt,
        prompt_mask=torch.arange(longest) < lengths[:, None],
        completions=completions,
        mask=torch.arange(after) < ends[:, :, None],
        ids=torch.arange(3),
        confidence=torch.ones(3),
    )
    return batch.to(device)


def _scores_and_gradients(model: nn.Module, batch: CandidateBatch, layout: Layout) -> tuple[Tensor, Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluating(model), torch.enable_grad():
        scores = score(model, batch, Scoring((layout,)))
    weights = torch.linspace(-1, 2, scores.numel(), device=scores.device, dtype=scores.dtype).reshape(scores.shape)
    if not parameters:
        return scores, scores
    gradients = torch.autograd.grad((weights * scores).sum(), parameters, allow_unused=True, materialize_grads=True)
    return scores.detach(), torch.cat([gradient.flatten() for gradient in gradients])
