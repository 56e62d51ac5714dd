"""How far a long stage has come: a bar that fits the terminal, or now and then a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0
SECONDS_OF_SILENCE = 60.0


def describe(metrics: Mapping[str, float | int]) -> list[str]:
    """The metrics worth a glance, in the order in which a narrow terminal keeps them."""
    parts = {
        "loss": lambda x: f"loss {x:.3f}",
        "rewards/margins": lambda x: f"margin {x:+.2f}",
        "rewards/accuracies": lambda x: f"acc {x:.0%}",
        "pairs_per_s": lambda x: f"{x:,.0f} pairs/s",
        "running": lambda x: f"{x} running",
        "failed": lambda x: f"{x} failed",
    }
    return [show(metrics[name]) for name, show in parts.items() if name in metrics]


def duration(seconds: float | int) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


class _Pace:
    """Time left at the mean speed since the first update, so that a resumed run is not thought fast."""

    def __init__(self, total: int, clock: Callable[[], float]) -> None:
        self.total = total
        self.clock = clock
        self.first: tuple[int, float] | None = None

    def left(self, step: int) -> str:
        now = self.clock()
        if self.first is None:
            self.first = (step, now)
        steps, seconds = step - self.first[0], now - self.first[1]
        return f"{duration(seconds / steps * max(self.total - step, 0))} left" if steps > 0 else "-:-- left"


class LiveProgress:
    """A bar with the metrics behind it; metrics that do not fit the width are left out, the last ones first."""

    def __init__(self, console: RichConsole, total: int, title: str, clock: Callable[[], float]) -> None:
        self._console = console
        self._pace = _Pace(total, clock)
        self._title = title
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", markup=False),
        ]
        self._bar = Progress(*columns, console=console, expand=True)
        self._task = self._bar.add_task(title, total=total, state="")

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Show that `step` is done."""
        total = self._pace.total
        parts, left = describe(metrics), self._pace.left(step)
        room = self._console.width - len(self._title) - 12  # the bar keeps about ten columns
        state = f"{step}/{total}"
        while len("  ".join([state, *parts, left])) > room and parts:
            parts.pop()
        self._bar.update(self._task, completed=step, state="  ".join([state, *parts, left]))


class PlainProgress:
    """A line for the first and the last step; in between every 10 % or every minute, but at least 5 s apart."""

    def __init__(self, print_line: Callable[[Text], None], total: int, title: str, clock: Callable[[], float]) -> None:
        self._print = print_line
        self._pace = _Pace(total, clock)
        self._title = title
        self._last: tuple[int, float] | None = None

    def update(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Say that `step` is done, if it is time to."""
        total, now = self._pace.total, self._pace.clock()
        left = self._pace.left(step)
        if self._last is not None and step < total:
            steps, seconds = step - self._last[0], now - self._last[1]
            due = steps >= total / 10 or seconds >= SECONDS_OF_SILENCE
            if not due or seconds < SECONDS_BETWEEN_LINES:
                return
        self._last = (step, now)
        self._print(Text("  ".join([f"{self._title} {step}/{total}", *describe(metrics), left])))
