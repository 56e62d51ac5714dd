"""Faults of a file system, put in wherever a program touches it: an error, a kill, a file that may grow no further."""

from __future__ import annotations

import os
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


class Faults:
    """Counts operations, and lets `act` happen at one of them."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.act: Callable[[], object] = int
        sys.addaudithook(self._hook)  # there is no way to remove one

    def operation(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                self.act()

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """For what Python gives no notice of."""

        def with_notice(*arguments: Any, **options: Any) -> Any:
            self.operation()
            return function(*arguments, **options)

        return with_notice

    def after_opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A file that is opened to be written anew is empty for a moment: that is an operation of its own."""

        def with_notice(*arguments: Any, **options: Any) -> Any:
            opened = function(*arguments, **options)
            try:
                if opened.writable():
                    self.operation()
            except BaseException:
                opened.close()
                raise
            return opened

        return with_notice

    @contextmanager
    def at(self, count: int, act: Callable[[], None]) -> Iterator[None]:
        self.left, self.act = count, act
        try:
            yield
        finally:
            self.left = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left is None:
            return
        to_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in EVENTS or to_write:
            self.operation()


FAULTS = Faults()


def full() -> None:
    raise OSError(28, "No space left on device")


def ended_by_kill(work: Callable[[], object], count: int) -> bool:
    """Do `work` in a process of its own that dies at its operation number `count`; false if it has no more than that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, from Python 3.12 on
        pid = os.fork()
    if pid == 0:
        try:
            with FAULTS.at(count, lambda: os._exit(9)):  # no cleaning up, as by SIGKILL
                work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9), "the work itself has failed"
    return status == 9


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A write beyond it stores what fits, and fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
