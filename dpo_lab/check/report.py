"""The report of `python -m dpo_lab.check`: a table of verdicts, and below it every broken law with its counter-example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from torch import Tensor

from dpo_lab.check.catalogue import DECLARED, UNIVERSAL
from dpo_lab.check.search import Verdict, Violation, examine, violation
from dpo_lab.check.strategies import Drawn, Loss, default
from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.tracking.console import Console

COLUMNS = ["loss", *(name.replace("_", "\n") for name in DECLARED), "all\nothers"]
MEANING = {Verdict.kept: "declared and kept", Verdict.absent: "not declared, and broken", Verdict.violated: "violated"}


@dataclass
class Row:
    """One loss: a verdict on each law that can be declared, one on those that every loss keeps, and what is broken."""

    name: str
    verdicts: list[Verdict]
    violations: list[Violation] = field(default_factory=list)


def row_of(name: str, loss_class: Loss, examples: int) -> Row:
    """All laws on one loss."""
    row = Row(name, [])
    for law in DECLARED.values():
        verdict, broken = examine(loss_class, law, examples)
        row.verdicts.append(verdict)
        row.violations += [broken] if broken else []
    universal = [broken for law in UNIVERSAL if (broken := violation(loss_class, law, examples))]
    row.verdicts.append(Verdict.violated if universal else Verdict.kept)
    row.violations += universal
    return row


def show(console: Console, rows: Sequence[Row], examples: int) -> None:
    """The table, and every violation."""
    title = f"Laws of losses, each tried on {examples} drawn comparisons and on wide samples"
    console.table(title, COLUMNS, [[row.name, *(verdict.value for verdict in row.verdicts)] for row in rows])
    console.note("   ".join(f"{verdict.value} {meaning}" for verdict, meaning in MEANING.items()) + "\n")
    for row in rows:
        for broken in row.violations:
            console.note("\n".join([f"{row.name}: {broken.law.name}", *(f"    {line}" for line in explained(broken)), ""]))
    broken_by = [row.name for row in rows if row.violations]
    console.note(f"violated by {', '.join(broken_by)}" if broken_by else "no law is violated")


def explained(broken: Violation) -> list[str]:
    """The law, how it is broken, and the counter-example where there is one."""
    lines = [f"law:   {broken.law.sentence}", f"found: {broken.message}"]
    if broken.counterexample is None:
        return lines
    return lines + described(broken.counterexample)


def described(drawn: Drawn) -> list[str]:
    """A comparison as short lists of numbers; of many prompts, only how many there are."""
    loss, logps, batch = drawn
    lines = [f"with:  loss={loss.name} {settings_of(loss)}".rstrip()]
    if len(batch) > 8:
        return [*lines, f"on:    a fixed sample of {len(batch)} prompts"]
    for row in range(len(batch)):
        lines.append(f"prompt {row}: {known_of(loss, batch, row)}")
        for candidate in range(batch.num_candidates):
            lines.append(f"  candidate {candidate}: {numbers_of(loss, logps, batch, candidate, row)}")
        if loss.needs_mismatched and logps.mismatched is not None:
            lines.append(f"  mismatched: {tokens_of(logps.mismatched, 0, row)}")
    return lines


def settings_of(loss: PreferenceLoss) -> str:
    """What differs from the defaults, as words of a command line."""
    usual, settings = default(type(loss)), {f.name: getattr(loss, f.name) for f in fields(loss)}
    changed = {name: value for name, value in settings.items() if value != getattr(usual, name)}
    return " ".join(f"loss.{name}={worded(value)}" for name, value in changed.items())


def worded(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if hasattr(value, "__dataclass_fields__"):
        return "{" + ", ".join(f"{name}: {worded(part)}" for name, part in vars(value).items() if part) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def known_of(loss: PreferenceLoss, batch: CandidateBatch, row: int) -> str:
    """What the data says of a prompt's candidates, as far as the loss may read it."""
    parts = []
    if batch.utilities is not None and loss.reads_confidence:
        parts.append(f"utilities {listed(batch.utilities[:, row])}")
    elif loss.reads_confidence:
        parts.append(f"confidence {batch.confidence[row]:g}")
    if batch.scores is not None and (loss.needs_scores or loss.options.margin.score):
        parts.append(f"scores {listed(batch.scores[:, row])}")
    if batch.margin is not None and loss.options.margin.data:
        parts.append(f"margin {batch.margin[row]:.4g}")
    return ", ".join(parts)


def numbers_of(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch, candidate: int, row: int) -> str:
    parts = [tokens_of(logps, candidate, row)]
    real = logps.mask[candidate, row]
    if loss.needs_kl and logps.kl is not None:
        parts.append(f"kl {listed(logps.kl[candidate, row][real])}")
    if loss.needs_collision and logps.collision is not None:
        parts.append(f"collision {listed(logps.collision[candidate, row][real])}")
    if batch.num_candidates == 1 and batch.desirable is not None:
        parts.append("desirable" if batch.desirable[0, row] else "undesirable")
    return ", ".join(parts)


def tokens_of(logps: Logps, candidate: int, row: int) -> str:
    """Log-probabilities of the tokens, without padding (which is said where it stands before or between them)."""
    real = logps.mask[candidate, row]
    text = f"policy {listed(logps.policy[candidate, row][real])}"
    if logps.reference is not None:
        text += f" reference {listed(logps.reference[candidate, row][real])}"
    precision = "" if str(logps.policy.dtype) == "torch.float64" else f" ({str(logps.policy.dtype).removeprefix('torch.')})"
    padding = "" if real.all() else f" at positions {real.nonzero()[:, 0].tolist()} of {len(real)}"
    return text + padding + precision


def listed(numbers: Tensor) -> str:
    return "[" + ", ".join(f"{number:.6g}" for number in numbers.tolist()) + "]"
