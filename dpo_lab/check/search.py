"""Looking for a comparison that breaks a law, and making it as small as it gets."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from enum import Enum

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import HypothesisWarning

from dpo_lab.check.law import Law
from dpo_lab.check.strategies import Drawn, Loss, default, numbers_of_candidates, wide_pairs
from dpo_lab.check.transforms import rows_of


class Verdict(Enum):
    """Of a law that can be declared: declared and kept; neither; or the declaration is not true."""

    kept = "✓"
    absent = "–"  # noqa: RUF001
    violated = "✗"


@dataclass
class Violation:
    """A law that a loss breaks; without a counter-example where it keeps one that it does not declare."""

    loss_class: Loss
    law: Law
    message: str
    counterexample: Drawn | None = None


def violation(loss_class: Loss, law: Law, examples: int = 25, shrink: bool = True) -> Violation | None:
    """A counter-example among the first comparisons (the same ones in every call), made as small as it gets."""
    if not numbers_of_candidates(loss_class, law.candidates):
        return None  # of pairs, say, where the loss takes single completions only
    found: list[tuple[Drawn, Exception]] = []

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )
    @given(law.drawn(loss_class))
    def look(drawn: Drawn) -> None:
        try:
            law.check(*drawn)
        except Exception as error:  # one that the loss raises itself counts too
            found.append((drawn, error))
            raise

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisWarning)  # it shows long counter-examples, which are not looked at
            look()
    except Exception as error:
        if not found:
            return Violation(loss_class, law, f"{type(error).__name__}: {error}")
        drawn, error = found[-1]  # the last one is the smallest: it is shown again at the end
        return Violation(loss_class, law, described(error), drawn)
    return None


def described(error: Exception) -> str:
    return str(error) if type(error) is AssertionError and str(error) else f"{type(error).__name__}: {error}"


def keeps_on_samples(loss_class: Loss, law: Law) -> bool:
    """The law holds for the loss with its default settings on wide samples."""
    numbers = numbers_of_candidates(loss_class, law.candidates)
    try:
        for k in numbers:
            drawn = wide_pairs(k=k)
            law.check(default(loss_class), *drawn)
            if not loss_class.laws.rowwise:  # the sum over many prompts can hide what the sum over three shows
                for rows in torch.arange(len(drawn[1])).split(3):
                    law.check(default(loss_class), *rows_of(*drawn, rows))
    except Exception:  # one that the loss raises itself is found, with its counter-example, where it is looked for
        return False
    return bool(numbers)


def examine(loss_class: Loss, law: Law, examples: int = 25, shrink: bool = True) -> tuple[Verdict, Violation | None]:
    """Is the loss's declaration of this law true: kept if declared, else broken?"""
    keeps = keeps_on_samples(loss_class, law)
    if not getattr(loss_class.laws, law.name):
        missing = Violation(loss_class, law, f"it keeps this law and should declare {law.name}=True") if keeps else None
        return (Verdict.violated if keeps else Verdict.absent), missing
    broken = violation(loss_class, law, examples, shrink)
    if broken is None and not keeps:
        broken = Violation(loss_class, law, "it breaks this law on the wide sample")
    return (Verdict.violated if broken else Verdict.kept), broken
