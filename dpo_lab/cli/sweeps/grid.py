"""A sweep over every combination of values."""

from __future__ import annotations

import sys

from hydra.plugins.launcher import Launcher

from dpo_lab.cli.sweeps.display import Display
from dpo_lab.cli.sweeps.ledger import JobState, Ledger
from dpo_lab.tracking import Console


def run_grid(ledger: Ledger, launcher: Launcher) -> None:
    """Launch the waiting jobs and wait until all have ended. How each ended is in the ledger."""
    display = Display(ledger, Console())
    waiting = [entry.words for entry in ledger.of(JobState.waiting)]
    if in_process(launcher):
        for number, words in enumerate(waiting):
            launch(ledger, launcher, [words], number)
            display.update()
    elif waiting:
        with display.watching():
            launch(ledger, launcher, waiting, 0)
        display.update()


def in_process(launcher: Launcher) -> bool:
    """Jobs run here one after the other, and write to this terminal."""
    return getattr(launcher, "n_jobs", None) == 1 or type(launcher).__name__ == "BasicLauncher"


def launch(ledger: Ledger, launcher: Launcher, jobs: list[list[str]], first: int) -> None:
    """Run the jobs and settle them. Where the launcher itself fails, results are not lost: they are in the run directories."""
    codes: list[int | None] = [None] * len(jobs)
    try:
        codes = [returned._return_value for returned in launcher.launch(jobs, first)]
    except Exception as error:
        print(f"error: {type(launcher).__name__}: {type(error).__name__}: {error}", file=sys.stderr)
    for words, code in zip(jobs, codes, strict=True):
        ledger.settle(words, code if isinstance(code, int) else None)
