"""Runs in processes of their own that import and compose nothing: each is forked from one that has, and may be harmed."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import ENVIRONMENT

if TYPE_CHECKING:
    pass


class Forks(AbstractContextManager["Forks"]):
    """`run` gives the exit status of a run and what it printed."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "printed.txt"
        environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen([sys.executable, "-c", "import forked; forked.serve()"], env=environment, **pipes)

    def run(self, folder: Path, words: Sequence[str], at: tuple[str, int, str] | None = None) -> tuple[int, str]:
        """`at` is a place, a count and a harm: what happens when the function there is called for so many times."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        folder.mkdir(exist_ok=True)
        self.server.stdin.write(json.dumps([str(folder), list(words), at, str(self.log)]) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline()), self.log.read_text()

    def __exit__(self, *raised: object) -> None:
        self.server.kill()
        self.server.communicate()


HARMS: dict[str, Any] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
    "interrupt twice": lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)],
    "no file over 3 kB": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    "no file over 20 kB": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)),
}


def serve() -> None:
    """Answer each line with the exit status of its run."""
    import torch.utils.tensorboard  # noqa: F401

    from dpo_lab.cli.sweeps import Task

    tasks: dict[str, Task] = {}
    for line in sys.stdin:
        folder, words, at, log = json.loads(line)
        if str(words) not in tasks:
            tasks[str(words)] = Task(words)
            tasks[str(words)].job(words)  # composed before the fork
        pid = os.fork()
        if pid == 0:
            _do(tasks[str(words)], folder, at, log)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _do(task: Task, folder: str, at: tuple[str, int, str] | None, log: str) -> None:
    from dpo_lab.pipeline.stopping import PreemptedError

    os.chdir(folder)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if at is not None:
        _harm(*at)
    try:
        code = task.run(task.job(task.arguments))
    except PreemptedError:
        code = 0
    sys.stdout.flush()
    os._exit(code)


def _harm(place: str, count: int, harm: str) -> None:
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *names, name = path.split(".")
    for part in names:
        owner = getattr(owner, part)
    original, left = getattr(owner, name), [count]

    def harmful(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            HARMS[harm]()
        return original(*arguments, **options)

    setattr(owner, name, harmful)
