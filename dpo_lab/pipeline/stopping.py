"""SIGTERM and Ctrl-C: the first one asks a run to stop, the second one ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class PreemptedError(KeyboardInterrupt):
    """A run was stopped from outside, and left so that it can be resumed."""


@dataclass
class Stopping:
    """A request to stop. It raises PreemptedError at once, except while `between_steps` is active, where `asked` is polled."""

    asked: str = ""
    """Name of the signal; empty while there is none."""
    looked_at: bool = False

    def __call__(self, number: int, frame: object) -> None:
        if self.asked:
            os._exit(128 + number)  # whatever is being written appears whole or not at all
        self.asked = signal.Signals(number).name
        if not self.looked_at:
            raise PreemptedError(self.asked)

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """The body looks at `asked` itself, and ends soon after it is set."""
        self.looked_at = True
        try:
            yield
        finally:
            self.looked_at = False
        if self.asked:
            raise PreemptedError(self.asked)


@contextmanager
def listening() -> Iterator[Stopping]:
    """Handle both signals while the body runs. One that is ignored (a job of a sweep leaves Ctrl-C to its parent) stays so."""
    stopping = Stopping()
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stopping)
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
