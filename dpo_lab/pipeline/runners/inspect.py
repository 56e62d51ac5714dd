"""Inspect feedback before training on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor

from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.pipeline.base import RUNNERS, RunnerSpec
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.stages import Stages
from dpo_lab.pipeline.study import Study
from dpo_lab.records import CandidateBatch
from dpo_lab.seeding import permutation

COLOURS = ("black on bright_green", "black on green")
"""Of scored tokens, in turn, so that one ends visibly where the next begins."""
LONGEST_SHOWN = 240
"""Tokens of a prompt or completion that are shown."""


@dataclass
class _Lengths:
    """Tokens of each row in one of its parts."""

    part: str
    tokens: Int[Tensor, " n"]


@RUNNERS.register
@dataclass
class InspectRunner(RunnerSpec):
    """Show how the data is read: its oddities, its lengths, and examples with their scored tokens highlighted.

    Tokens are those that training sees. Nothing is fitted but a tokenizer, where none comes with the model.
    """

    name: str = "inspect"
    num_shown: int = 3
    """Examples, drawn by the study's seed."""

    trains: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...] | None] = ("data", "tokenizer", "model", "candidates", "seed", "accept")

    def __post_init__(self) -> None:
        if self.num_shown < 0:
            raise ValueError(f"runner.num_shown must be at least 0, got {self.num_shown}")

    def check(self, study: Study) -> None:
        if not study.data.has_pairs or study.candidates.sampled:
            raise ValueError("runner=inspect looks at labelled data: choose data=pairs and candidates=given")

    def run(self, context: Context) -> dict[str, Any]:
        stages = Stages(context)
        train, held_out, _ = stages.pairs()
        assert held_out is not None
        summary: dict[str, Any] = {}
        for side, batch in (("train", train), ("eval", held_out)):
            parts = _parts(batch)
            context.console.table(
                f"Tokens, {side}", ["", "rows", "mean", "median", "95 %", "longest"], [_row(lengths) for lengths in parts]
            )
            if side == "train":
                _histogram(context, parts)
            summary |= {f"{side}/rows": len(batch)}
            summary |= {f"{side}/tokens/{lengths.part}": float(lengths.tokens.double().mean()) for lengths in parts}
            if batch.num_candidates == 2:
                longer, same = _chosen_longer(batch)
                summary |= {f"{side}/chosen_longer": longer, f"{side}/same_length": same}
                context.console.note(
                    f"{side}: the chosen side has more tokens in {longer:.1%} of the pairs, as many in {same:.1%}"
                )
        order = permutation(len(train), context.study.seed, "examples")
        spelled = [_example(context, train, stages.tokenizer, row) for row in order[: self.num_shown].tolist()]
        if any(spelled):
            context.console.note("\n\\ before the text of a special token: it is spelled in characters, and is not that token")
        return summary


def _names(batch: CandidateBatch) -> list[str]:
    """What the candidates of a row are called."""
    known = {1: ["completion"], 2: ["chosen", "rejected"]}
    return known.get(batch.num_candidates, [f"rank {i + 1}" for i in range(batch.num_candidates)])


def _parts(batch: CandidateBatch) -> list[_Lengths]:
    lengths = [batch.prompt_mask.sum(dim=1), *batch.mask.sum(dim=2)]
    return [_Lengths(part, tokens) for part, tokens in zip(["prompt", *_names(batch)], lengths, strict=True)]


def _row(lengths: _Lengths) -> list[Any]:
    tokens = lengths.tokens.double().sort().values
    middle, high = (float(tokens[min(round(share * len(tokens)), len(tokens) - 1)]) for share in (0.5, 0.95))
    return [lengths.part, len(tokens), float(tokens.mean()), middle, high, float(tokens[-1])]


def _histogram(context: Context, parts: list[_Lengths]) -> None:
    """A histogram of lengths in tokens, with bins that double."""
    top = max(int(lengths.tokens.max()) for lengths in parts)
    edges = [2**i for i in range(top.bit_length() + 1)]
    counts = [[int(((part.tokens >= low) & (part.tokens < 2 * low)).sum()) for part in parts] for low in edges]
    first = next(i for i, row in enumerate(counts) if any(row))
    most = max(map(max, counts))
    for place, part in enumerate(parts):
        for low, row in zip(edges[first:], counts[first:], strict=True):
            if row[place]:
                span = f"{low}-{2 * low - 1}" if low > 1 else "1"
                context.console.bar(f"{part.part:<11}{span:>11}", row[place], most)


def _chosen_longer(batch: CandidateBatch) -> tuple[float, float]:
    """Shares of the pairs whose chosen side has more tokens, and as many as the other."""
    chosen, rejected = batch.mask.sum(dim=2)
    return float((chosen > rejected).double().mean()), float((chosen == rejected).double().mean())


def _example(context: Context, batch: CandidateBatch, tokenizer: Tokenizer, row: int) -> bool:
    """A row with each scored token in colour; white space and special tokens as they are.

    Whether its text spells special tokens, which are then shown with a backslash.
    """
    prompt = batch.prompt[row][batch.prompt_mask[row]].tolist()
    sure = f", P = {float(batch.confidence[row]):.2f}" if batch.num_candidates == 2 else ""
    seen = prompt[-LONGEST_SHOWN:]
    apart = tokenizer.told_apart(seen)
    spells = apart != tokenizer.pieces(seen)
    words = "".join(apart) if spells else tokenizer.spelled(seen)
    context.console.styled([(f"\nrow {int(batch.ids[row])}{sure}\n", "bold"), (words, "dim")])
    for i, name in enumerate(_names(batch)):
        ids = batch.completions[i, row][batch.mask[i, row]].tolist()
        pieces = tokenizer.told_apart(ids[:LONGEST_SHOWN], after=prompt)
        spells |= pieces != tokenizer.pieces(ids[:LONGEST_SHOWN], after=prompt)
        shown = [(piece, COLOURS[place % len(COLOURS)]) for place, piece in enumerate(pieces)]
        more = [(f" ... {len(ids) - LONGEST_SHOWN} more", "dim")] if len(ids) > LONGEST_SHOWN else []
        context.console.styled([(f"{name} ({len(ids)} tokens) ", "bold"), *shown, *more])
    return spells
