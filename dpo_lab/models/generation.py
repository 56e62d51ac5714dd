"""Sampling completions from a causal language model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor, nn

from dpo_lab.scoring.layouts import SplitsHead
from dpo_lab.scoring.logps import evaluating, or_raise_context
from dpo_lab.seeding import Streams, uniform

log = logging.getLogger(__name__)
COMPACT_BELOW = 0.8
"""Once fewer than this share of a batch's rows still run, the ended ones are dropped, and their cache with them."""
LOOK_EVERY = {"cpu": 1}
"""Tokens between two looks at which rows still run, 8 on any other device: to look is to wait for it."""
ROWS_ON_CPU, ROWS_ON_GPU = 512, 4096
"""Rows of a batch, as far as their keys and values fit: on a CPU more gain nothing, fewer pay more for each call."""
TOKENS_OF_WHOLE_ROWS = 8192
"""In one pass of a model without a cache, which runs every row from its beginning for each token."""
CACHE_ON_CPU = 2**30
"""Bytes for a batch's keys and values. On a GPU half of what is free."""
BLOCK = 64
"""Tokens of a vocabulary that are added up together: summing all one by one takes most of a draw's time."""


@runtime_checkable
class Decoding(Protocol):
    """A batch of sequences being decoded, all at one column; padding stands on the left."""

    def read(self, tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r v"]:
        """Logits after the last of `tokens`, which follow those read before."""

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Continue with these rows in place of the present ones; a row may be given several times, or not at all."""


StartDecoding = Callable[[Int[Tensor, " r"], int], Decoding]
"""(each row's first column, the most columns that will be read) -> its decoding"""


@runtime_checkable
class HasDecoding(Protocol):
    """A model that decodes with a cache: `decoding(starts, width)`, see `StartDecoding`.

    `cache_bytes(width)` is the memory that takes for each row.
    """

    def decoding(self, starts: Tensor, width: int) -> Decoding: ...
    def cache_bytes(self, width: int) -> int: ...


class UncachedDecoding:
    """Decoding of any model without a cache: every row is run again, from its beginning, for each token."""

    def __init__(self, model: nn.Module, starts: Int[Tensor, " r"], width: int | None = None) -> None:
        self.model = model
        self.starts = starts
        self.tokens = starts.new_zeros(len(starts), 0)

    def read(self, tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r v"]:
        self.tokens = torch.cat((self.tokens, tokens), dim=1)
        # Padding moves to the end, where a causal model never looks.
        starts = rearrange(self.starts, "r -> r 1")
        last = self.tokens.shape[1] - 1
        columns = torch.arange(last + 1 - int(starts.min()), device=tokens.device)
        rows = self.tokens.gather(1, (columns + starts).clamp(max=last))
        at = torch.arange(len(rows), device=tokens.device), last - self.starts
        if isinstance(self.model, SplitsHead):
            return self.model.head(self.model.hidden(rows)[at])
        return self.model(rows)[at]

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        self.starts, self.tokens = self.starts[rows], self.tokens[rows]


@torch.no_grad()
def sample(
    model: nn.Module,
    prompt: Int[Tensor, "b p"],
    prompt_mask: Bool[Tensor, "b p"],
    max_tokens: int,
    *,
    ends: Sequence[int],
    streams: Streams,
    temperature: float = 1.0,
    rows_at_once: int | None = None,
) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """One completion for each prompt, drawn token by token, and its mask; at most `max_tokens` long.

    A completion ends with one of `ends`, which belongs to it, or is cut at `max_tokens`. Temperature 1 draws from the
    model's own distribution; 0 takes the most likely token. Prompts of like length run together, equal ones are read once.
    Each row has a random stream of its own: its completion depends on nothing beside it, and more `max_tokens` continue it.
    `rows_at_once` None: as many as are fast. Raises ValueError where prompt + completion exceed the model's context.
    """
    lengths = prompt_mask.sum(dim=1)
    if not lengths.all():
        raise ValueError("an empty prompt: nothing predicts its first token; begin prompts with a start token")
    context = getattr(model, "max_seq_len", None)
    if context and len(lengths) and int(lengths.max()) + max_tokens - 1 > context:
        raise ValueError(
            f"a prompt of {int(lengths.max())} tokens and {max_tokens} sampled ones exceed the model's context of {context}: "
            f"lower max_tokens or max_prompt_tokens{or_raise_context(model)}"
        )
    assert len(streams) == len(prompt), (len(streams), len(prompt))
    stops = torch.tensor(ends, device=prompt.device)
    out = prompt.new_full((len(prompt), max_tokens), ends[0])
    if len(prompt) and max_tokens:
        # Padding is -1 and on the left: sorted, prompts stand by length, and equal ones together.
        right = prompt.masked_fill(~prompt_mask, -1).gather(1, prompt_mask.byte().argsort(dim=1, stable=True))
        distinct, which = right[:, -int(lengths.max()) :].unique(dim=0, return_inverse=True)
        with evaluating(model):
            start = _choose_decoding(model, distinct, max_tokens)
            at_once = rows_at_once or _rows_at_once(model, distinct.shape[1] + max_tokens - 1, prompt.device)
            for rows in which.argsort(stable=True).split(at_once):
                here, copies = which[rows].unique(return_inverse=True)
                numbers = streams.select(rows).uniform(max_tokens).to(prompt.device)
                out[rows] = _sample_rows(start, distinct[here], copies, numbers, stops, temperature)
    ends_here = torch.isin(out, stops).long()
    mask = ends_here.cumsum(dim=1) == ends_here  # no end before
    used = int(mask.sum(dim=1).max()) if len(mask) else 0
    return out.masked_fill(~mask, ends[0])[:, :used], mask[:, :used]


def _rows_at_once(model: nn.Module, width: int, device: torch.device) -> int:
    most, room = ROWS_ON_CPU, CACHE_ON_CPU
    if device.type == "cuda":
        most, room = ROWS_ON_GPU, torch.cuda.mem_get_info(device)[0] // 2
    fit = room // max(model.cache_bytes(width), 1) if isinstance(model, HasDecoding) else TOKENS_OF_WHOLE_ROWS // width
    return max(min(most, fit), 1)


def _choose_decoding(model: nn.Module, prompts: Int[Tensor, "d p"], max_tokens: int) -> StartDecoding:
    """The decoding for these prompts: the model's own with a cache, if its logits are those of the model's forward.

    Compared at each call, at the full length: whatever the options and weights of a model, wrong decoding is noticed.
    """
    if not isinstance(model, HasDecoding):
        return partial(UncachedDecoding, model)
    try:
        reason = _decoding_error(model, prompts, max_tokens)
    except Exception as error:  # whatever it is that the decoding does not know
        reason = f"{type(error).__name__}: {error}"
    if reason is None:
        return model.decoding
    log.warning(
        "sampling runs the whole row for each token: the model's decoding does not do what its forward does (%s)", reason
    )
    return partial(UncachedDecoding, model)


def _decoding_error(model: nn.Module, prompts: Int[Tensor, "d p"], max_tokens: int) -> str | None:
    """How the decoding's logits differ from those of the forward pass; None where by no more than rounding.

    Compared on a few prompts, from the shortest to the longest, extended to full length by tokens that occur in them.
    """
    assert isinstance(model, HasDecoding)
    few = prompts[torch.linspace(0, len(prompts) - 1, min(len(prompts), 4)).long()]
    known = few[few >= 0]
    more = (uniform(len(few) * (max_tokens - 1), 0, "trying a decoding") * len(known)).long().to(few.device)
    rows = torch.cat((few, rearrange(known[more], "(d m) -> d m", d=len(few))), dim=1)
    starts, width = (rows < 0).sum(dim=1), rows.shape[1]
    decoding, forward = model.decoding(starts, width), UncachedDecoding(model, starts)
    for start, stop in pairwise([0, width] if max_tokens == 1 else [0, width - 1, width]):
        cached, right = (way.read(rows[:, start:stop].clamp(min=0)) for way in (decoding, forward))
        error = float((cached - right).abs().max() / right.abs().max())
        if not error <= torch.finfo(right.dtype).eps ** 0.5:
            return f"after {stop} tokens logits differ by {error:.1e} of the largest"
        order = torch.arange(len(rows), device=rows.device).roll(1)
        rows = rows[order]
        decoding.keep(order)
        forward.keep(order)
    return None


def _sample_rows(
    start: StartDecoding,
    prompts: Int[Tensor, "d p"],
    copies: Int[Tensor, " r"],
    numbers: Float64[Tensor, "r m"],
    ends: Int[Tensor, " e"],
    temperature: float,
) -> Int[Tensor, "r m"]:
    """One completion of `prompts[copies[r]]` for each r; what stands behind its end means nothing."""
    prompts = prompts[:, int((prompts < 0).all(dim=0).sum()) :]
    max_tokens = numbers.shape[1]
    out = prompts.new_full(numbers.shape, int(ends[0]))
    decoding = start((prompts < 0).sum(dim=1), prompts.shape[1] + max_tokens - 1)
    logits = decoding.read(prompts.clamp(min=0))[copies]
    decoding.keep(copies)
    running = torch.arange(len(out), device=out.device)
    alive = torch.ones_like(running, dtype=torch.bool)
    for t in range(max_tokens):
        drawn = _draw(logits, numbers[:, t, None], temperature)
        out[running, t] = drawn
        alive = alive & ~torch.isin(drawn, ends)
        if t + 1 == max_tokens:
            break
        if (t + 1) % LOOK_EVERY.get(out.device.type, 8) == 0:
            still = int(alive.sum())
            if still == 0:
                break
            if still < COMPACT_BELOW * len(alive):
                rows = alive.nonzero()[:, 0]
                running, alive, drawn, numbers = running[rows], alive[rows], drawn[rows], numbers[rows]
                decoding.keep(rows)
        logits = decoding.read(drawn[:, None])
    return out


def _draw(logits: Float[Tensor, "r v"], number: Float64[Tensor, "r 1"], temperature: float) -> Int[Tensor, " r"]:
    """One token of each row, drawn by inverting its distribution function: half the time of torch.multinomial on a CPU.

    Probabilities are summed in float64: every token whose probability float32 can hold is drawn as often as it should.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    few = logits.shape[1] <= 2 * BLOCK
    # A copy, and all that follows in place: allocating is half of the time.
    mass = F.pad(logits.float(), (0, 0 if few else -logits.shape[1] % BLOCK), value=-torch.inf)
    mass.sub_(mass.amax(dim=-1, keepdim=True)).div_(temperature).exp_()
    if few:
        return _picked(mass, number)[0][:, 0]
    blocks = rearrange(mass, "r (n m) -> r n m", m=BLOCK)
    block, within = _picked(blocks.sum(dim=-1), number)
    token, _ = _picked(blocks[torch.arange(len(mass), device=mass.device), block[:, 0]], within)
    return (block * BLOCK + token)[:, 0]


def _picked(mass: Float32[Tensor, "r n"], number: Float64[Tensor, "r 1"]) -> tuple[Int[Tensor, "r 1"], Float64[Tensor, "r 1"]]:
    """The place in each row whose share of the mass a number in [0, 1] falls into, and how far into that share."""
    reached = mass.cumsum(dim=-1, dtype=torch.float64)
    whole = reached[:, -1:]
    target = (number * whole).minimum(torch.nextafter(whole, torch.zeros_like(whole)))  # nothing lies behind the last mass
    place = torch.searchsorted(reached, target, right=True).clamp(max=mass.shape[1] - 1)  # of nan, whatever is there
    own = mass.gather(1, place).double()
    return place, 1 - (reached.gather(1, place) - target) / own
