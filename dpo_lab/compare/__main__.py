"""Runs side by side: `python -m dpo_lab.compare runs/imdb_sentiment [--save experiments/imdb_sentiment]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dpo_lab.compare.runs import Group, find_runs, grouped
from dpo_lab.compare.tables import METRICS, rows_of, save
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
        metrics = [f"{metric} at KL {kl:g}" for metric in given.metric for kl in given.at_kl]
        metrics = metrics or given.metric
        groups = grouped(runs, given.by)
        baseline = _baseline(groups, given.baseline)
        if given.at_kl:
            groups.sort(key=lambda group: -max(group.values(metrics[-1]), default=float("-inf")))
        columns, rows = rows_of(groups, metrics, baseline)
        console.table(f"{len(runs)} runs", columns, rows)
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
    parser.add_argument("--metric", nargs="+", default=list(METRICS), help="which numbers")
    parser.add_argument("--at-kl", nargs="+", type=float, default=[], help="the numbers where a run's path crosses these KLs")
    parser.add_argument("--baseline", metavar="VALUE", help="show differences from the row whose setting has this value")
    parser.add_argument("--save", type=Path, help="a study's folder: writes results.jsonl and the table in README.md")
    return parser


def _baseline(groups: Sequence[Group], wanted: str | None) -> Group | None:
    if wanted is None:
        return None
    for group in groups:
        if wanted in (str(value) for value in group.settings.values()):
            return group
    raise ValueError(f"--baseline: no row has '{wanted}' among its settings ({', '.join(groups[0].settings)})")


if __name__ == "__main__":
    sys.exit(main())
