"""Final numbers against a setting that is a number, beta above all, on a logarithmic axis."""

from __future__ import annotations

import json
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullLocator

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.looks import FEW, PALETTE, reward_of
from dpo_lab.compare.figures.theme import OTHERS, heading, name_ends, quiet_grid
from dpo_lab.compare.groups import Group

PANELS = {"kl": "KL to reference (nats)", "displacement/chosen": "Change of chosen logp (nats)"}


def draw(comparison: Comparison) -> Figure | None:
    """A line for each combination of the other settings; None where no setting takes three positive values."""
    setting, reward = swept(comparison.groups), reward_of(comparison)
    panels = ({reward: reward} if reward else {}) | PANELS
    panels = {m: title for m, title in panels.items() if any(group.values(m) for group in comparison.groups)}
    if setting is None or not panels:
        return None
    lines: dict[str, list[Group]] = {}
    for group in comparison.groups:
        others = {key: value for key, value in group.settings.items() if key != setting}
        lines.setdefault(" ".join(map(str, others.values())), []).append(group)
    figure = Figure(figsize=(1.4 + 3.8 * len(panels), 4.4))
    heading(figure, f"What {setting} does", "points: runs; lines: means over seeds; bars: 95 % intervals of the mean")
    grid = figure.add_gridspec(1, len(panels), left=0.06, right=0.89, bottom=0.125, top=0.78)
    grid.update(wspace=0.24)
    for place, (metric, title) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[0, place])
        axes.set_xscale("log")
        axes.set_title(title, pad=6)
        if metric == "kl" and _spans_decades([kl for group in comparison.groups for kl in group.values(metric)]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.set_xlabel(setting)
        quiet_grid(axes)
        ends = []
        for index, (name, groups) in enumerate(lines.items()):
            colour = PALETTE[index] if len(lines) <= FEW else OTHERS
            measured = [(group.settings[setting], group) for group in groups if group.values(metric)]
            for x, group in measured:
                values = group.values(metric)
                axes.plot([x] * len(values), values, "o", color=colour, alpha=0.3, markersize=4, markeredgewidth=0)
            means = [(x, group.estimate(metric)) for x, group in sorted(measured, key=lambda placed: placed[0])]
            heights = [estimate.mean or 0.0 for _, estimate in means]
            axes.plot([x for x, _ in means], heights, "-o", color=colour, linewidth=1.8, markersize=5)
            for x, estimate in means:
                if estimate.low is not None and estimate.high is not None:
                    axes.plot([x, x], [estimate.low, estimate.high], color=colour, linewidth=1, alpha=0.7)
            if means and name and len(lines) <= FEW:
                ends.append((means[-1][0], means[-1][1].mean or 0.0, name, colour))
        values = sorted({group.settings[setting] for group in comparison.groups})
        axes.set_xticks(values if len(values) <= 8 else values[:: len(values) // 6], minor=False)
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(NullLocator())
        if place == len(panels) - 1:
            name_ends(axes, ends, gap=0.06)
    return figure


def _spans_decades(values: Sequence[float]) -> bool:
    return 0 < 30 * min(values) < max(values)


def swept(groups: Sequence[Group]) -> str | None:
    """The setting with three positive values or more, a beta before the others."""
    candidates = []
    for key in groups[0].settings:
        values = [group.settings[key] for group in groups]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values)
        if numbers and len({json.dumps(value) for value in values}) > 2:
            candidates.append(key)
    return next((key for key in candidates if key.endswith("beta")), candidates[0] if candidates else None)
