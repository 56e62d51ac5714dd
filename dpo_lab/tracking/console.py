"""The console: what a run prints, as a live display on a terminal and as plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console as RichConsole
from rich.status import Status
from rich.table import Table
from rich.text import Text

from dpo_lab.tracking.progress import StageProgress

BAR = 40  # characters of the longest bar
NARROW = 64  # columns below which samples are stacked instead of side by side


@dataclass
class Stage:
    """A step of a run, as its body reports it: whether its result was `reused`, and a `detail` that it may replace."""

    detail: str
    reused: bool = False


class Console:
    """Prints to a text stream, by default stdout.

    Every text is shown literally: no markup, no escape sequences, no character that the stream cannot encode.
    """

    def __init__(self, stream: Any = None, width: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rich = RichConsole(file=stream or sys.stdout, width=width, markup=False, highlight=False, emoji=False)
        self._clock = clock
        self._spinner: Status | None = None
        self.live = self._rich.is_terminal and not self._rich.is_dumb_terminal

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[Stage]:
        """Time a step of the run; when it ends, print a line with its seconds and whether its result was built or reused."""
        stage = Stage(detail)
        started = self._clock()
        self._spin(f"{name} {detail}")
        ended = "failed"
        try:
            yield stage
            ended = "reused" if stage.reused else "built"
        finally:
            self._spin(None)
            seconds = f"{self._clock() - started:.1f} s"
            colour = {"built": "green", "reused": "cyan", "failed": "bold red"}[ended]
            line = Text(f"{self._clean(name):<18} ", style="bold")
            line.append(f"{ended:<6} {seconds:>8}", style=colour)
            line.append(f"   {self._clean(stage.detail)}".rstrip(), style="not bold dim")
            self._print(line)

    def progress(self, total: int, title: str) -> StageProgress:
        """A context manager whose `.update(step, metrics)` moves a bar on a terminal, else prints a line now and then."""
        self._spin(None)
        return StageProgress(self._rich, self.live, total, self._clean(title), self._clock)

    def note(self, text: str) -> None:
        """Print a line of information."""
        self._print(Text(self._clean(text)))

    def warn(self, text: str) -> None:
        """Print a warning."""
        line = Text("warning: ", style="bold yellow")
        self._print(line.append(self._clean(text), style="not bold"))

    def path(self, what: str, path: Path | str) -> None:
        """Print where something lies, on one unbroken line that can be copied."""
        line = Text(f"{self._clean(what):<18} ", style="bold")
        self._print(line.append(self._clean(str(path)), style="not bold cyan"))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table; columns of numbers are aligned to the right."""
        table = Table(title=Text(self._clean(title), style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
        for index, column in enumerate(columns):
            numeric = all(isinstance(row[index], (int, float)) for row in rows)
            table.add_column(Text(self._clean(column)), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(self._clean(_shown(value))) for value in row))
        self._rich.print(table)

    def styled(self, pieces: Sequence[tuple[str, str]]) -> None:
        """Print pieces of text, each with its style."""
        self._print(Text.assemble(*((self._clean(text), style) for text, style in pieces)))

    def bar(self, title: str, count: int, most: int) -> None:
        """Print one line of a bar chart, whose longest bar stands for the count `most`."""
        mark = "\N{BLACK SQUARE}" if self._rich.encoding.startswith("utf") else "#"
        self.styled([(f"{title} ", ""), (mark * max(round(count / most * BAR), 1), "cyan"), (f" {count:,}", "dim")])

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print completions of the reference and of the policy under their rewards, each beside its prompt.

        Keys as in samples.jsonl: prompt, reference, policy, reward/reference, reward/policy; a missing one is left out.
        """
        sides = [side for side in ("reference", "policy") if any(side in row for row in rows)]
        if self._rich.width < NARROW:
            for row in rows:
                for key in ["prompt", *sides]:
                    self._rich.print(self._sample(row, key, heading=True), overflow="fold")
                self._rich.print()
            return
        table = Table(box=box.SIMPLE_HEAD, expand=True, show_lines=True, padding=(0, 1))
        for key in ["prompt", *sides]:
            table.add_column(Text(key), ratio=2 if key == "prompt" else 3, overflow="fold")
        for row in rows:
            table.add_row(*(self._sample(row, key, heading=False) for key in ["prompt", *sides]))
        self._rich.print(table)

    def _sample(self, row: Mapping[str, Any], key: str, heading: bool) -> Text:
        reward = row.get(f"reward/{key}")
        text = Text(key if heading else "", style="")
        text.stylize("bold")
        if reward is not None:
            text.append(f" {reward:+.2f}" if heading else f"{reward:+.2f}", style="green" if reward > 0 else "red")
        if text:
            text.append("\n")
        return text.append(self._clean(str(row.get(key, ""))), style="dim" if key == "prompt" else "")

    def _spin(self, text: str | None) -> None:
        """Show `text` beside a spinner, or stop the one that shows: two live displays cannot share a terminal."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
        if text is not None and self.live:
            spinner = "dots" if self._rich.encoding.startswith("utf") else "line"
            self._spinner = self._rich.status(Text(self._clean(text), no_wrap=True, overflow="ellipsis"), spinner=spinner)
            self._spinner.start()

    def _print(self, line: Text) -> None:
        self._rich.print(line, soft_wrap=True)

    def _clean(self, text: str) -> str:
        """`text` without what would steer the terminal or break the stream: such characters show as their code."""
        visible = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
        encoding = self._rich.encoding
        return visible.encode(encoding, "backslashreplace").decode(encoding)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
