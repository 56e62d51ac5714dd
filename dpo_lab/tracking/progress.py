"""Progress of a long stage: a bar that fits the terminal, or a line now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich import progress
from rich.console import Console
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0
SECONDS_OF_SILENCE = 60.0
EVER = 1e9
"""Seconds: the time left follows from the mean speed since the first update (which may be where a run resumes)."""


def short(metrics: Mapping[str, float | int]) -> list[str]:
    """The metrics worth a glance as short texts, the one that a narrow terminal keeps longest first."""
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


class StageProgress:
    """A bar with the metrics behind it on a live terminal; elsewhere a line for the first and last step and some in between.

    Metrics that do not fit the terminal are left out, the last ones first. Lines come every 10 % or every minute, but at least
    5 s apart.
    """

    def __init__(self, console: Console, live: bool, total: int, title: str, clock: Callable[[], float]) -> None:
        self._console, self._live, self._total, self._title, self._clock = console, live, total, title, clock
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.fields[state]}", markup=False),
        )
        self._bar = progress.Progress(
            *columns, console=console, expand=True, disable=not live, get_time=clock, speed_estimate_period=EVER
        )
        self._task = self._bar.add_task(title, total=total, state="")
        self._last: tuple[int, float] | None = None

    def __enter__(self) -> StageProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Show that `step` is done; without a live terminal only if a line is due."""
        self._bar.update(self._task, completed=step)
        seconds = self._bar.tasks[0].time_remaining
        parts = [f"{step}/{self._total}", *short(metrics), f"{'-:--' if seconds is None else duration(seconds)} left"]
        if self._live:
            room = self._console.width - len(self._title) - 12  # the bar keeps about ten columns
            while len("  ".join(parts)) > room and len(parts) > 2:
                del parts[-2]
            self._bar.update(self._task, state="  ".join(parts))
        elif self._is_due(step):
            self._last = (step, self._clock())
            self._console.print(Text("  ".join([f"{self._title} {parts[0]}", *parts[1:]])), soft_wrap=True)

    def _is_due(self, step: int) -> bool:
        if self._last is None or step >= self._total:
            return True
        steps, seconds = step - self._last[0], self._clock() - self._last[1]
        return seconds >= SECONDS_BETWEEN_LINES and (steps >= self._total / 10 or seconds >= SECONDS_OF_SILENCE)
