"""The footnotes of a table of results: what its intervals allow for, what its marks mean, what a seed varies."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_lab.compare.at_kl import AT
from dpo_lab.compare.groups import Group
from dpo_lab.compare.intervals import Covers, Estimate

EXTRAPOLATED, BETWEEN, ONE, SEEDS_ONLY, UPPER = "*", "~", "\u2020", "\u2021", "\u00a7"
MEANINGS = {
    EXTRAPOLATED: "beyond the end of the ideal frontier in some runs: extrapolated with the square root of KL",
    BETWEEN: "read off between two evaluations, on a line in the square root of KL",
    ONE: "1 run: the interval holds the evaluation's error only, nothing of what differs between seeds",
    SEEDS_ONLY: "the evaluation's error is not known for each prompt: interval and tests are over seeds only, of these prompts",
    UPPER: "the evaluation's error that seeds share is bounded from above: the interval is too wide rather than too narrow",
}
STAGES = {
    "data": ("data.seed", None),
    "base policy": ("base.seed", "base"),
    "candidates": ("candidates.seed", "pairs"),
    "evaluation prompts": ("evaluation.seed", None),
}
"""What a run is made with: the seed that varies it, and its digest in run.json."""
NAMED = 2


def marks(group: Group, metric: str) -> str:
    """The footnote marks of a number in the table."""
    mark = BETWEEN if AT in metric else EXTRAPOLATED
    return (mark if group.is_marked(metric) else "") + estimate_marks(group.estimate(metric))


def estimate_marks(estimate: Estimate) -> str:
    """The footnote marks of an interval."""
    if estimate.low is None:
        return ""
    return {Covers.evaluation: ONE, Covers.seeds: SEEDS_ONLY}.get(estimate.covers, UPPER if estimate.bound else "")


def footnotes(groups: Sequence[Group], metrics: Sequence[str], differences: Sequence[Estimate]) -> list[str]:
    """The lines below the table."""
    signs = {sign for group in groups for metric in metrics for sign in marks(group, metric)}
    signs |= {sign for estimate in differences for sign in estimate_marks(estimate)}
    lines = [
        "mean \u00b1 standard deviation over seeds; in brackets, the 95 % interval of the mean, which allows for what differs "
        "between seeds and for the evaluation's error that they share"
    ]
    if any(0 < group.estimate(metric).n < len(group.by_seeds) for group in groups for metric in metrics):
        lines.append("n=1 of 3: one of three seeds has this number")
    estimates = [group.estimate(metric) for group in groups for metric in metrics]
    if any(estimate.mean is not None and estimate.low is None for estimate in estimates):
        lines.append(
            "without brackets: one number whose evaluation error is unknown, or equal numbers, which do not say how they vary"
        )
    lines += [f"{sign} {meaning}" for sign, meaning in MEANINGS.items() if sign in signs]
    return lines + gap_footnotes(groups, metrics) + seed_footnote(groups)


def gap_footnotes(groups: Sequence[Group], metrics: Sequence[str]) -> list[str]:
    """Footnotes for empty cells at a KL: runs whose evaluations are too far apart there, and runs that never cross it."""
    lines: dict[str, list[str]] = {}
    for metric in (metric for metric in metrics if AT in metric):
        name, _, kl = metric.partition(AT)
        gaps = [(run.path.name, gap) for group in groups for run in group.runs if (gap := run.crossing(metric).gap)]
        if gaps:
            named = ", ".join(f"{name} ({low:.3g} to {high:.3g} nats)" for name, (low, high) in gaps[:NAMED])
            more = f" and {len(gaps) - NAMED} more" if len(gaps) > NAMED else ""
            line = f"{AT}{kl}: empty for runs without an evaluation near it, {named}{more}; --max-gap allows wider gaps"
            lines.setdefault(line, []).append(name)
    footnotes = [", ".join(names) + line for line, names in lines.items()]
    short = sum(
        all(run.crossing(metric).value is None and run.crossing(metric).gap is None for run in group.runs)
        for group in groups
        for metric in metrics
        if AT in metric
    )
    return footnotes + (["other empty cells: no run of the row crosses that KL"] if short else [])


def seed_footnote(groups: Sequence[Group]) -> list[str]:
    """A line, derived from settings and digests; nothing where no row has two seeds."""
    several = [group for group in groups if len(group.by_seeds) > 1]
    if not several:
        return []
    others = {key for group in several for run in group.runs for key in run.seeds} - {
        "seed",
        *(how[0] for how in STAGES.values()),
    }
    stages = STAGES | {key: (key, None) for key in sorted(others) if any(_varies(group, key, None) for group in several)}
    counts = {name: sum(_varies(group, *how) for group in several) for name, how in stages.items()}
    varied = [name for name, count in counts.items() if count == len(several)]
    if all(len({run.seeds.get("seed") for run in group.runs}) > 1 for group in several):
        older = any(run.is_older for group in several for run in group.runs)  # all of a row's runs drew the same samples then
        varied = ["batch order" if older else "batch order and the policy's samples", *varied]
    partly = [name for name, count in counts.items() if 0 < count < len(several)]
    shared = [name for name, count in counts.items() if not count]
    line = f"a seed varies: {', '.join(varied) or 'nothing in every row'}"
    line += f"; in some rows also {', '.join(partly)}" if partly else ""
    return [line + (f"; shared by the runs of a row: {', '.join(shared)}" if shared else "")]


def _varies(group: Group, seed: str, stage: str | None) -> bool:
    seeds = {str(run.settings.get(seed)) for run in group.runs}
    digests = {str((run.facts.get("made_from") or {}).get(stage)) for run in group.runs}
    return len(seeds) > 1 or (stage is not None and len(digests) > 1)
