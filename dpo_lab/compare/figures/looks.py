"""Which settings a figure shows in which colour: all of a few; of many the baseline and the best, the others in grey behind."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.colors import to_hex

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.theme import BLUE, GREEN, INK, ORANGE, OTHERS, VERMILION
from dpo_lab.compare.groups import Group

FEW = 8
"""Settings up to which each has a colour of its own."""
MANY = 40
"""Panels that a picture has at most."""
PALETTE = (BLUE, VERMILION, GREEN, "#a65d91", "#2f9fd8", ORANGE, INK, "#8a7a5c")


@dataclass
class Look:
    """Colour and label of one setting in a figure; without a label it is one of the many behind."""

    group: Group
    colour: str
    label: str | None


def looks(comparison: Comparison) -> list[Look]:
    """Of few settings all, in the order of colours where they are numbers; of many the baseline and the best four in colour.

    Those behind come first.
    """
    groups = comparison.groups
    if len(groups) <= FEW:
        names = [list(group.settings.values()) for group in groups]
        ordered = all(len(values) == 1 and isinstance(values[0], int | float) for values in names) and len(groups) > 2
        shades = [to_hex(colormaps["viridis"](0.08 + 0.74 * i / max(len(groups) - 1, 1))) for i in range(len(groups))]
        return [Look(group, colour, group.label) for group, colour in zip(groups, shades if ordered else PALETTE, strict=False)]
    front = best(comparison, 4)
    if comparison.baseline is not None:
        front = [comparison.baseline, *(group for group in front if group is not comparison.baseline)]
    behind = [Look(group, OTHERS, None) for group in groups if all(group is not each for each in front)]
    colours = [INK, *PALETTE] if comparison.baseline is not None else PALETTE
    return behind + [Look(group, colour, group.label) for group, colour in zip(front, colours, strict=False)]


def best(comparison: Comparison, number: int) -> list[Group]:
    """The settings of the highest mean reward, in the order of the comparison."""
    reward = reward_of(comparison)

    def height(group: Group) -> float:
        values = group.values(reward) if reward else []
        return sum(values) / len(values) if values else -math.inf

    ranked = sorted(comparison.groups, key=height, reverse=True)[:number]
    return [group for group in comparison.groups if any(group is each for each in ranked)]


def shown_of(comparison: Comparison) -> str:
    """What a picture with a panel for each setting must add to its title where there are too many of them."""
    return f"; the best {MANY} of {len(comparison.groups)} settings" if len(comparison.groups) > MANY else ""


def reward_of(comparison: Comparison) -> str | None:
    """The reward that was asked for, else the training scorer's, else the true one's; None where there is none."""
    asked = [metric.partition(" at KL ")[0] for metric in comparison.metrics]
    for metric in [name for name in asked if name in ("proxy/policy", "reward/policy")] + ["proxy/policy", "reward/policy"]:
        if any(run.value(metric) is not None for run in comparison.runs):
            return metric
    return None
