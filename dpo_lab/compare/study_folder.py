"""Keeps a comparison in the folder of its study: results.jsonl, and the table of results in README.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpo_lab.artifacts.json_files import to_line, write_atomically
from dpo_lab.compare.at_kl import AT
from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.tables import markdown_table, results_table

START, END = "<!-- results -->", "<!-- end of results -->"


def save(comparison: Comparison, folder: Path) -> None:
    """Write results.jsonl (a line for each run) and the table of results in README.md, with its footnotes.

    Raises ValueError if README.md has no place for the table.
    """
    settings = {run.path: group.settings for group in comparison.groups for run in group.runs}
    lines = [
        to_line(
            {
                "command": run.facts.get("command"),
                "seed": run.facts.get("seed"),
                **{name: run.facts.get(name) for name in ("git", "hardware", "threads")},
                "run_wall_s": run.facts.get("wall_s"),
                **settings[run.path],
                **{key: value for key, value in run.summary.items() if key != "ideal_frontier"},
                **{metric: run.value(metric) for metric in comparison.metrics if AT in metric},
            }
        )
        for run in comparison.runs
    ]
    place_table(folder, *results_table(comparison.groups, comparison.metrics, comparison.baseline), comparison.notes)
    write_atomically(folder / "results.jsonl", "".join(lines))


def check_folder(folder: Path) -> None:
    """Raises ValueError if README.md exists without a place for the table."""
    _around_table(folder)


def place_table(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Replace the table in README.md, with `notes` as a list below it. Raises ValueError if the file has no place for it."""
    before, after = _around_table(folder)
    content = markdown_table(columns, rows, notes)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "README.md", f"{before}{START}\n{content}{END}{after}")


def _around_table(folder: Path) -> tuple[str, str]:
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {folder.name}\n\n{START}\n{END}\n"
    before, start, rest = text.partition(START)
    _, closed, after = rest.partition(END)
    if not start or not closed:
        raise ValueError(f"{readme} has no place for the table: give it the lines {START} and {END}")
    return before, after
