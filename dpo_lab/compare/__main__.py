"""Runs side by side: `python -m dpo_lab.compare runs/imdb_sentiment --baseline 0.1 --html report.html`."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dpo_lab.artifacts.json_files import write_atomically
from dpo_lab.compare.comparison import Comparison, compare_runs
from dpo_lab.compare.exports import to_csv, to_json, to_latex
from dpo_lab.compare.study_folder import save
from dpo_lab.compare.tables import differences_table, fit_columns, results_table
from dpo_lab.tracking.console import Console

EXPORTS = {"csv": to_csv, "json": to_json, "latex": to_latex}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, write what was asked for. Exit status 2 where there is nothing to compare."""
    try:
        given = _parser().parse_args(arguments)
        piped = [name for name in EXPORTS if str(getattr(given, name)) == "-"]
        _refuse_outputs(given, piped)
        console = Console(sys.stderr if piped else None)
        comparison = compare_runs(given.runs, given.by, given.metric, given.at_kl, given.baseline, given.max_gap)
        _print(console, comparison)
        _write(console, comparison, given, list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        print("error:", " ".join(text.split()), file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    """Its complaints are a ValueError, as every other mistake is."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help lists what there is")


def _refuse_outputs(given: argparse.Namespace, piped: Sequence[str]) -> None:
    """Raises ValueError, before any work, for outputs that cannot be written."""
    if len(piped) > 1:
        raise ValueError(f"one output fits on stdout, asked for {' and '.join(piped)}: give a file for the others")
    for name in ("figure", "html", *EXPORTS):
        path = getattr(given, name)
        if path is not None and path.is_dir():
            raise ValueError(f"--{name}: {path} is a directory; give a file")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m dpo_lab.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or directories of them")
    parser.add_argument(
        "--by", nargs="+", default=[], metavar="SETTING", help="a row for each value of these settings, such as loss.name"
    )
    parser.add_argument("--metric", nargs="+", default=[], help="the metrics to show")
    parser.add_argument("--at-kl", nargs="+", type=float, default=[], help="the metrics at these KLs, interpolated")
    parser.add_argument(
        "--max-gap", type=float, metavar="NATS", help="the widest gap in KL that --at-kl interpolates across; else .5 or KL / 2"
    )
    parser.add_argument("--baseline", metavar="VALUE", help="test differences, seed by seed, from the row with this value")
    parser.add_argument("--figure", type=Path, help="draw the paths through KL and the first metric, a panel for each row")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="every picture there is something for, as PNG and SVG")
    parser.add_argument("--html", type=Path, metavar="FILE", help="all of it as one page that needs no network")
    for name in EXPORTS:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"the results as {name}; - for stdout")
    parser.add_argument("--save", type=Path, help="a study's folder: writes results.jsonl and the table in README.md")
    return parser


def _print(console: Console, comparison: Comparison) -> None:
    for line in comparison.left_out:
        console.note(line)
    for line in comparison.warnings:
        console.warn(line)
    for line in comparison.varied_settings:
        console.note(line)
    title = f"{len(comparison.runs)} run{'s'[: len(comparison.runs) - 1]}, by setting"
    for metrics in fit_columns(comparison.groups, comparison.metrics, shutil.get_terminal_size().columns):
        console.table(title, *results_table(comparison.groups, metrics, between="\n"))
    for line in comparison.notes:
        console.note(line)
    for metric, contrasts in comparison.contrasts.items():
        if comparison.baseline is not None and contrasts:
            console.table(f"{metric}: difference from {comparison.baseline.label}, seed by seed", *differences_table(contrasts))

    for metric, lines in comparison.verdicts.items():
        for line in lines:
            console.note(f"{metric}: {line}")


def _write(console: Console, comparison: Comparison, given: argparse.Namespace, arguments: Sequence[str]) -> None:
    if given.figure is not None:
        most_kl = 1.5 * max(given.at_kl) if given.at_kl else None
        metric = given.metric[0] if given.metric else "proxy/policy"
        from dpo_lab.compare.figures.paths import save_paths

        console.path("figure", save_paths(comparison.groups, metric, comparison.baseline, given.figure, most_kl))
    if given.figures is not None:
        from dpo_lab.compare.figures import save_figures

        drawn = save_figures(comparison, given.figures)
        for path in drawn:
            console.path("figure", path)
        if not drawn:
            console.warn("no figures: the runs have no evaluations on the way and no reward")
    if given.html is not None:
        from dpo_lab.compare.page import to_html

        title = " and ".join(dict.fromkeys(str(path.resolve().name) for path in given.runs[:3]))
        command = shlex.join(["python", "-m", "dpo_lab.compare", *arguments])
        given.html.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(given.html, to_html(comparison, title, command))
        console.path("page", given.html)
    for name, export in EXPORTS.items():
        path = getattr(given, name)
        if str(path) == "-":
            sys.stdout.write(export(comparison))
        elif path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, export(comparison))
            console.path(name, path)
    if given.save is not None:
        save(comparison, given.save)


if __name__ == "__main__":
    sys.exit(main())
