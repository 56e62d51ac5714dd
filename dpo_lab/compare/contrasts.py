"""Settings against a baseline, seed by seed: the differences, and in plain words what they do and do not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpo_lab.compare.groups import Group
from dpo_lab.compare.intervals import Estimate
from dpo_lab.compare.significance import EXACT_UP_TO, holm, sign_flip_p, smallest_p, t_test_p

ALPHA = 0.05
NAMED = 6


@dataclass
class Contrast:
    """The difference of one setting from the baseline over the seeds that both have.

    `p` is the sign-flip test's, `p_t` the paired t test's; `*_holm` are corrected for all the settings that this metric was
    compared in. None where there are fewer than two pairs, and of the t test where differences are far from normal.
    """

    group: Group
    metric: str
    difference: Estimate
    p: float | None = None
    p_t: float | None = None
    p_holm: float | None = None
    p_t_holm: float | None = None


def compare_with_baseline(groups: Sequence[Group], metric: str, baseline: Group) -> list[Contrast]:
    """Every other setting that shares a seed with the baseline, in the order of `groups`."""
    result = []
    for group in groups:
        if group is baseline:
            continue
        differences, shared, difference = group.difference(baseline, metric)
        if differences:
            p, p_t = sign_flip_p(differences, shared), t_test_p(differences, shared)
            result.append(Contrast(group, metric, difference, p, p_t))
    tested = [contrast for contrast in result if contrast.p is not None]
    corrected = holm([_known(contrast.p) for contrast in tested])
    corrected_t = holm([_known(contrast.p_t) for contrast in tested])
    for contrast, p, p_t in zip(tested, corrected, corrected_t, strict=True):
        contrast.p_holm, contrast.p_t_holm = p, None if contrast.p_t is None else p_t
    return result


def _known(p: float | None) -> float:
    """A question without an answer was asked all the same: it counts among those that are corrected for."""
    return 1.0 if p is None else p


def verdict(contrasts: Sequence[Contrast], baseline: str) -> list[str]:
    """What is and what is not distinguishable from the baseline, a sentence each."""
    if not contrasts:
        return []
    tested = [contrast for contrast in contrasts if contrast.p is not None]
    if not tested:
        return ["One seed in common: no interval and no p-value, so chance cannot be told from effect. Run more seeds."]
    pairs, many = max(contrast.difference.n for contrast in tested), len(tested)
    sure = [contrast for contrast in tested if _known(contrast.p_holm) <= ALPHA]
    by_t = [contrast for contrast in tested if contrast not in sure and _known(contrast.p_t_holm) <= ALPHA]
    rest = [contrast for contrast in tested if contrast not in sure and contrast not in by_t]
    lines = []
    if many * smallest_p(pairs) > ALPHA:
        lines.append(_cannot(pairs, many))
    elif sure:
        lines.append(f"Distinguishable from {baseline} ({_test(pairs)}, Holm's p at most .05): {_sides(sure)}.")
    if by_t:
        lines.append(
            f"Distinguishable only if differences between seeds are normal (paired t, Holm's p at most .05): {_sides(by_t)}."
        )
    if rest:
        ends = [end for c in rest for end in (c.difference.low, c.difference.mean, c.difference.high)]
        reach = max(abs(end) for end in ends if end is not None)
        lines.append(
            f"Not distinguishable from {baseline}: {_names(rest)}. That is not the same as equal: "
            f"95 % intervals reach differences of {reach:.3g}."
        )
    single = [contrast for contrast in contrasts if contrast.p is None]
    if single:
        lines.append(f"One seed in common, so nothing can be said: {_names(single)}.")
    return lines


def _cannot(pairs: int, many: int) -> str:
    text = f"With {pairs} seeds the smallest p of the {_test(pairs)} (two-sided) is {smallest_p(pairs):.2g}"
    if many > 1:
        text += f", times {many} comparisons (Holm)"
    needed = next((n for n in range(pairs + 1, EXACT_UP_TO + 2) if many * smallest_p(n) <= ALPHA), None)
    more = "so many comparisons are too many for it" if needed is None else f"it would take {needed} seeds"
    return f"{text}: this test can distinguish nothing at .05, whatever the data; {more}."


def _test(pairs: int) -> str:
    return "exact sign-flip test" if pairs <= EXACT_UP_TO else "sign-flip test"


def _sides(contrasts: Sequence[Contrast]) -> str:
    above = [contrast for contrast in contrasts if (contrast.difference.mean or 0.0) > 0]
    below = [contrast for contrast in contrasts if contrast not in above]
    return "; ".join(f"{side} it {_names(some)}" for side, some in (("above", above), ("below", below)) if some)


def _names(contrasts: Sequence[Contrast]) -> str:
    names = [contrast.group.label for contrast in contrasts]
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "") if more != 1 else ", ".join(names)
