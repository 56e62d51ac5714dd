"""Runs side by side: `python -m dpo_lab.compare runs/imdb_sentiment [--save experiments/imdb_sentiment]`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dpo_lab.tracking import Console, read_run, read_summary
from dpo_lab.tracking.json_files import to_line, write_atomically
from dpo_lab.tracking.tensorboard import flatten

METRICS = ("kl", "proxy/policy", "reward/policy", "positive/policy", "win_rate", "ideal_share", "eval/rewards/accuracies")
IRRELEVANT = ("seed", "runs", "store", "name", "compute.threads")
START, END = "<!-- results -->", "<!-- end of results -->"


@dataclass
class FinishedRun:
    """What a run directory says of itself."""

    path: Path
    settings: dict[str, Any]
    facts: dict[str, Any]
    summary: dict[str, Any]


@dataclass
class Group:
    """The runs that differ in their seed only."""

    settings: dict[str, Any]
    runs: list[FinishedRun]

    def values(self, metric: str) -> list[float]:
        found = (run.summary.get(metric) for run in self.runs)
        return [float(value) for value in found if isinstance(value, int | float)]


def find_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs at or below the given paths, and a line for each that is not finished."""
    files = sorted({file for path in paths for file in [path / "run.json", *path.rglob("run.json")] if file.is_file()})
    runs, others = [], []
    for file in files:
        folder, facts = file.parent, read_run(file.parent)
        if facts.get("status") != "done" or not (folder / "config.yaml").is_file():
            others.append(f"{folder}: {facts.get('status', 'unreadable')}, left out")
            continue
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        settings = {key: value for key, value in flatten(config).items() if key not in IRRELEVANT}
        runs.append(FinishedRun(folder, settings, facts, read_summary(folder)))
    return runs, others


def grouped(runs: Sequence[FinishedRun]) -> list[Group]:
    """Runs by all their settings but the seed; of each setting that is the same everywhere, nothing is said."""
    keys = sorted({key for run in runs for key in run.settings})
    differing = [key for key in keys if len({json.dumps(run.settings.get(key)) for run in runs}) > 1]
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {key: run.settings.get(key) for key in differing}
        groups.setdefault(json.dumps(settings), Group(settings, [])).runs.append(run)
    return sorted(groups.values(), key=lambda group: [_sortable(value) for value in group.settings.values()])


def rows_of(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """A table: differing settings, number of seeds, mean and standard deviation of each metric that any run has."""
    metrics = [metric for metric in METRICS if any(group.values(metric) for group in groups)]
    columns = [*groups[0].settings, "seeds", *metrics]
    rows = [
        [*(str(value) for value in group.settings.values()), str(len(group.runs)), *(spread(group.values(m)) for m in metrics)]
        for group in groups
    ]
    return columns, rows


def spread(values: Sequence[float]) -> str:
    """Mean and, for two and more, standard deviation."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def save(runs: Sequence[FinishedRun], columns: Sequence[str], rows: Sequence[Sequence[str]], folder: Path) -> None:
    """results.jsonl (one line a run), and the table in the folder's README.md, between its two markers."""
    lines = [
        to_line(
            {
                "command": run.facts.get("command"),
                "seed": run.facts.get("seed"),
                "git": run.facts.get("git"),
                "hardware": run.facts.get("hardware"),
                "threads": run.facts.get("threads"),
                "run_wall_s": run.facts.get("wall_s"),
                **{key: value for key, value in run.summary.items() if key != "ideal_frontier"},
            }
        )
        for run in runs
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "results.jsonl", "".join(lines))
    table = "\n".join(["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]])
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {folder.name}\n\n{START}\n{END}\n"
    before, found, rest = text.partition(START)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{readme} has no place for the table: give it the lines {START} and {END}")
    write_atomically(readme, f"{before}{START}\n{table}\n{END}{after}")


def _sortable(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; with --save also keep it. Exit status 2 where there is nothing to compare."""
    parser = argparse.ArgumentParser(prog="python -m dpo_lab.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or directories of them")
    parser.add_argument("--save", type=Path, help="a study's folder: writes results.jsonl and the table in README.md")
    given = parser.parse_args(arguments)
    console = Console()
    runs, others = find_runs(given.runs)
    for line in others:
        console.note(line)
    if not runs:
        print(f"error: there is no finished run in {', '.join(map(str, given.runs))}", file=sys.stderr)
        return 2
    columns, rows = rows_of(grouped(runs))
    console.table(f"{len(runs)} runs", columns, rows)
    if given.save is not None:
        try:
            save(runs, columns, rows, given.save)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
