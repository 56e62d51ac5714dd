"""Progress of a sweep: a line when a job ends, and on a terminal a bar while several run at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from dpo_lab.cli.sweeps.ledger import Entry, JobState, Ledger
from dpo_lab.tracking import Console
from dpo_lab.tracking.progress import duration

SECONDS = 0.5


class Display:
    """Prints the changes of a ledger."""

    def __init__(self, ledger: Ledger, console: Console) -> None:
        self.ledger = ledger
        self.console = console
        self.began = time.monotonic()
        self.before = len(ledger.of(JobState.reused))
        self.printed: set[int] = set()
        """Positions of the entries whose end has been printed."""
        for index, entry in enumerate(ledger.entries):
            if entry.state is JobState.reused:
                self.printed.add(index)
                console.note(f"{ledger.title(entry)}: finished before, in {entry.run} (delete it to run it again)")

    def update(self) -> None:
        """A line for each job that has ended since the last call."""
        self.ledger.poll()
        for index, entry in enumerate(self.ledger.entries):
            if index not in self.printed and entry.state not in (JobState.waiting, JobState.running):
                self.printed.add(index)
                self.console.note(self._line(entry))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep printing, from another thread, while the body waits for jobs."""
        over = threading.Event()
        with self.console.progress(len(self.ledger.entries), "sweep") if self.console.live else nullcontext() as bar:

            def watch() -> None:
                while not over.wait(SECONDS):
                    self.update()
                    if bar is not None:
                        bar.update(len(self.printed), self.counts())

            thread = threading.Thread(target=watch, daemon=True)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()

    def counts(self) -> dict[str, int]:
        return {"running": len(self.ledger.of(JobState.running)), "failed": len(self.ledger.bad)}

    def left(self) -> str:
        """Time left, at the mean speed since the sweep began."""
        ended = len(self.printed) - self.before
        seconds = (time.monotonic() - self.began) / max(ended, 1) * (len(self.ledger.entries) - len(self.printed))
        return f"{duration(seconds)} left"

    def _line(self, entry: Entry) -> str:
        reason = f" ({entry.reason})" if entry.reason not in ("", entry.state.value) else ""
        counts = "".join(f", {count} {what}" for what, count in self.counts().items() if count)
        ended = f"sweep {len(self.printed)}/{len(self.ledger.entries)}: {self.ledger.title(entry)} {entry.state}{reason}"
        return ended + (f"{counts}, {self.left()}" if len(self.printed) < len(self.ledger.entries) else counts)
