"""Runs side by side: `python -m dpo_lab.compare runs/imdb_sentiment [--save experiments/imdb_sentiment]`."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from dpo_lab.compare.figure import draw_paths
from dpo_lab.compare.runs import FinishedRun, Group, find_runs, grouped, known_metrics
from dpo_lab.compare.tables import METRICS, rows_of, save
from dpo_lab.registry import suggestion
from dpo_lab.tracking import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; with --save also keep it. Exit status 2 where there is nothing to compare."""
    given = _parser().parse_args(arguments)
    console = Console()
    runs, others = find_runs(given.runs)
    for line in others:
        console.note(line)
    try:
        if not runs:
            raise ValueError(f"there is no finished run in {', '.join(map(str, given.runs))}")
        metrics = _metrics(runs, given.metric, given.at_kl)
        groups = grouped(runs, given.by)
        baseline = _baseline(groups, given.baseline)
        if given.at_kl:
            groups.sort(key=lambda group: -statistics.fmean(group.values(metrics[0]) or [-math.inf]))  # best first
        columns, rows = rows_of(groups, metrics, baseline)
        console.table(f"{len(runs)} runs", columns, rows)
        if given.figure is not None:
            most_kl = 1.5 * max(given.at_kl) if given.at_kl else None
            console.path(
                "figure",
                draw_paths(groups, given.metric[0] if given.metric else "proxy/policy", baseline, given.figure, most_kl),
            )
        if given.save is not None:
            save(runs, columns, rows, given.save, list(groups[0].settings), metrics)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dpo_lab.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or directories of them")
    parser.add_argument("--by", nargs="+", default=[], metavar="SETTING", help="what tells runs apart, such as loss.name")
    parser.add_argument("--metric", nargs="+", default=[], help="which numbers")
    parser.add_argument("--at-kl", nargs="+", type=float, default=[], help="the numbers where a run's path crosses these KLs")
    parser.add_argument("--baseline", metavar="VALUE", help="show differences from the row whose setting has this value")
    parser.add_argument("--figure", type=Path, help="draw the paths through KL and the first metric, a panel for each row")
    parser.add_argument("--save", type=Path, help="a study's folder: writes results.jsonl and the table in README.md")
    return parser


def _metrics(runs: Sequence[FinishedRun], wanted: Sequence[str], kls: Sequence[float]) -> list[str]:
    """What the table shows. Raises ValueError for a metric that no run has, and for a KL that is none."""
    known = known_metrics(runs)
    for metric in wanted:
        if metric not in known:
            raise ValueError(f"--metric: no run has '{metric}'.{suggestion(metric, known)}")
    for kl in kls:
        if not 0 <= kl < math.inf:
            raise ValueError(f"--at-kl must be >= 0 and finite, got {kl:g}")
    shown = list(wanted) or [metric for metric in METRICS if metric in known and (not kls or metric != "kl")]
    return [f"{metric} at KL {kl:g}" for metric in shown for kl in kls] or shown


def _baseline(groups: Sequence[Group], wanted: str | None) -> Group | None:
    if wanted is None:
        return None
    found = [group for group in groups if wanted in (str(value) for value in group.settings.values())]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"--baseline: '{wanted}' is in {len(found)} rows; tell runs apart --by one setting")
    raise ValueError(f"--baseline: no row has '{wanted}' among its settings ({', '.join(groups[0].settings)})")


if __name__ == "__main__":
    sys.exit(main())
