"""Log-probabilities of tokens under a causal language model: the one place where position t predicts token t + 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import ForwardPass, Layout, LayoutPlan, SplitsHead, plan_batch
from dpo_lab.scoring.layouts.base import to_device
from dpo_lab.scoring.layouts.choosing import cheapest_plan, device_of
from dpo_lab.scoring.layouts.sequences import sequences_of_tokens

_COUNTING = Lock()


@dataclass
class Scoring:
    """Options of `score`: they change time and memory, and the scores by no more than rounding."""

    layouts: Sequence[Layout] = (Layout.rows,)
    """The cheapest of these is taken for each batch."""
    head_portion: int | None = None
    """Positions whose logits exist at a time, computed once more in the backward pass; None: all."""
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    """Prompts, or tokens, in one forward pass of a whole data set, see `micro_batches.split_for_inference`."""
    used: Counter[Layout] = field(default_factory=Counter)
    """How many batches each layout has scored."""

    def rounding(self) -> dict[str, Any]:
        """The options that decide a score's last bits."""
        sizes = {"micro_batch_size": self.micro_batch_size, "micro_batch_tokens": self.micro_batch_tokens}
        return {"layouts": [layout.value for layout in self.layouts], "head_portion": self.head_portion, **sizes}

    def summary(self) -> str:
        """A line such as "packed for 62 of 64 batches, rows for 2"."""
        total = sum(self.used.values())
        first, *others = [f"{layout.value} for {count:,}" for layout, count in self.used.most_common()] or ["none for 0"]
        return ", ".join((f"{first} of {total:,} batches", *others))


Logits = Float[Tensor, "t v"]
LogitsFunction = Callable[[Sequence[Logits], Int[Tensor, " t"]], tuple[Float[Tensor, " t"], ...]]
"""(each model's float32 logits at t positions, the tokens that stand there) -> numbers of each position."""


def score(model: nn.Module, batch: CandidateBatch, scoring: Scoring | None = None) -> Float[Tensor, "k b m"]:
    """Log-probability of every completion token given its prompt and the tokens before it, in nats.

    `model` maps token ids (r n) to logits (r n v) and is causal; it runs in the mode it is in, dropout included, on its own
    device, to which the batch is moved. `batch` holds b prompts with k completions each, of at most m tokens; candidate 0 of a
    pair is the chosen one. A completion's log-probability is the sum over its tokens: `score(model, batch).sum(dim=-1)`.

    Padding holds exactly 0. The result is float32 whatever the model computes in (float64 stays float64), and gradients flow
    through it. By default every candidate runs in a row of its own; `Scoring(exact_layouts(model))` reads prompts once where
    the model allows it. Raises ValueError for an empty prompt, and where prompt + completion exceed the model's context.
    """
    return score_with([model], batch, logps_of_logits, scoring)[0]


def logps_of_logits(logits: Sequence[Logits], tokens: Int[Tensor, " t"]) -> tuple[Float[Tensor, " t"], ...]:
    """Log-probabilities of the tokens under the first model."""
    logps: Float[Tensor, " t"] = _LogProbabilities.apply(logits[0], tokens)
    return (logps,)


class _LogProbabilities(torch.autograd.Function):
    """Log-softmax at one token of each row. Its gradient overwrites what was kept for it: beside a large vocabulary's logits
    one copy of their size exists; cross_entropy's backward pass has two more.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Logits, tokens: Int[Tensor, " t"]) -> Float[Tensor, " t"]:
        log_softmax = F.log_softmax(logits, dim=-1)
        ctx.save_for_backward(log_softmax, tokens)
        return rearrange(log_softmax.gather(1, rearrange(tokens, "t -> t 1")), "t 1 -> t")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, " t"]) -> tuple[Logits, None]:
        log_softmax, tokens = ctx.saved_tensors
        grad, tokens = rearrange(grad, "t -> t 1"), rearrange(tokens, "t -> t 1")
        # In place: autograd refuses a second backward pass over the same graph, as it does after any change of what was kept.
        return log_softmax.exp_().mul_(-grad).scatter_add_(1, tokens, grad), None


def score_with(
    models: Sequence[nn.Module], batch: CandidateBatch, compute: LogitsFunction, scoring: Scoring | None = None
) -> tuple[Float[Tensor, "k b m"], ...]:
    """The numbers that `compute` makes of the models' logits at every completion token; 0 at padding. Errors as `score`.

    Gradients reach the first model only.
    """
    scoring = scoring or Scoring()
    plan = plan_batch(models, batch, scoring.layouts)
    with _COUNTING:
        scoring.used[plan.layout] += 1
    return _run(plan, models, batch.completions, compute, scoring.head_portion)


def token_logps(
    model: nn.Module,
    tokens: Int[Tensor, "r n"],
    present: Bool[Tensor, "r n"],
    scored: Bool[Tensor, "r n"],
    num_candidates: int = 1,
    layouts: Sequence[Layout] = (Layout.rows,),
) -> Float[Tensor, "r n"]:
    """Log-probability of each scored token given the present tokens before it in its row, in nats; 0 elsewhere.

    Tokens that are not present are padding: they are taken out before the model runs, wherever they stand. Rows
    r / num_candidates apart are candidates of one prompt: `layouts` may read once what they begin with alike.
    Raises ValueError where a scored token is the first of its row, and where a row exceeds the model's context.
    """
    sequences = sequences_of_tokens(tokens.cpu(), present.cpu(), scored.cpu(), num_candidates)
    return _run(cheapest_plan([model], sequences, layouts), [model], tokens, logps_of_logits, None)[0]


def _run(
    plan: LayoutPlan, models: Sequence[nn.Module], tokens: Int[Tensor, "*s"], compute: LogitsFunction, portion: int | None
) -> tuple[Float[Tensor, "*s"], ...]:
    """Run the plan's passes: what `compute` makes of the logits at their tokens, 0 at the others."""
    for model in models:
        _check_context(model, max(plan.sequences.lengths, default=0))
    flat = tokens.flatten()
    passes: list[ForwardPass] = [to_device(one, device_of(models[0])) for one in plan.passes()]
    results = []
    for one in passes:
        states = [one.hidden_states(models[0])]
        with torch.no_grad():
            states += [one.hidden_states(model) for model in models[1:]]
        results.append(_apply_head(models, states, one.targets, compute, portion))
    if not results:  # completions may all be empty
        dtype = next((p.dtype for p in models[0].parameters()), torch.float32)
        nothing = torch.zeros(0, 2, dtype=torch.promote_types(dtype, torch.float32), device=tokens.device)
        return tuple(empty.new_zeros(tokens.shape) for empty in compute([nothing] * len(models), flat[:0]))
    slots = torch.cat([one.slots for one in passes])
    values = (torch.cat(numbers) for numbers in zip(*results, strict=True))
    return tuple(numbers.new_zeros(flat.shape).scatter(0, slots, numbers).reshape(tokens.shape) for numbers in values)


def _apply_head(
    models: Sequence[nn.Module],
    states: Sequence[Float[Tensor, "t _"]],
    tokens: Int[Tensor, " t"],
    compute: LogitsFunction,
    portion: int | None,
) -> tuple[Float[Tensor, " t"], ...]:
    def of_portion(tokens: Int[Tensor, " t"], *states: Float[Tensor, "t _"]) -> tuple[Float[Tensor, " t"], ...]:
        all_logits = []
        for i, (model, state) in enumerate(zip(models, states, strict=True)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and i == 0):
                logits = model.head(state) if isinstance(model, SplitsHead) else state
                all_logits.append(logits if logits.dtype == torch.float64 else logits.float())
        with torch.autocast(tokens.device.type, enabled=False):
            return compute(all_logits, tokens)

    if portion is None:
        return of_portion(tokens, *states)
    # Not kept but computed again in the backward pass: what is as wide as the vocabulary is the largest of a step.
    portions = [
        checkpoint(of_portion, *inputs, use_reentrant=False, preserve_rng_state=False)
        for inputs in zip(tokens.split(portion), *(state.split(portion) for state in states), strict=True)
    ]
    return tuple(torch.cat(numbers) for numbers in zip(*portions, strict=True))


def _check_context(model: nn.Module, length: int) -> None:
    context = getattr(model, "max_seq_len", None)
    if context and length - 1 > context:  # the last token is predicted, never read
        raise ValueError(
            f"prompt + completion have {length} tokens, the model reads {context} and predicts one more: "
            f"shorten what it is given (candidates.max_prompt_tokens, candidates.max_tokens){or_raise_context(model)}"
        )


def or_raise_context(model: nn.Module) -> str:
    """The other way out of a context that is too short, for a model that has one."""
    return "" if getattr(model, "fixed_context", False) else ", or raise model.context"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A block with dropout off; every submodule gets its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
