"""The folder of a study, experiments/<name>: its README.md has a place for the table of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpo_lab.artifacts.json_files import write_atomically

START, END = "<!-- results -->", "<!-- end of results -->"


def check_folder(folder: Path) -> None:
    """Raises ValueError where README.md exists and has no place for a table."""
    _around_table(folder)


def place_table(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """The table in README.md with `notes` as a list below it, in the place of the one before.

    Raises ValueError where the file has no place for it.
    """
    before, after = _around_table(folder)
    cells = [[_escaped(cell) for cell in row] for row in [columns, ["---"] * len(columns), *rows]]
    table = "\n".join("| " + " | ".join(row) + " |" for row in cells)
    below = "\n".join(f"- {_escaped(note)}" for note in notes).replace("*", r"\*")
    content = f"{table}\n\n{below}\n" if notes else f"{table}\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "README.md", f"{before}{START}\n{content}{END}{after}")


def _escaped(cell: str) -> str:
    """Text that ends neither its cell nor the table, and is no markup."""
    return " ".join(cell.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _around_table(folder: Path) -> tuple[str, str]:
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {folder.name}\n\n{START}\n{END}\n"
    before, found, rest = text.partition(START)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{readme} has no place for the table: give it the lines {START} and {END}")
    return before, after
