"""Jobs in several processes of this machine.

A pool of a library's would do but for two things: a worker that is killed (out of memory) must cost its own job and no other,
and each worker imports torch once, not once a job.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from dpo_lab.cli.sweeps.task import Job, Task
from dpo_lab.tracking import Console

SECONDS_TO_END = 20.0


@dataclass
class Worker:
    """A worker process, the connection to it, and the number of its present job."""

    process: SpawnProcess
    line: Connection
    job: int | None = None


def run_in_processes(task: Task, jobs: Sequence[Job], num: int, folder: Path) -> list[int | None]:
    """The exit status of each job, None where its process was killed. What a job prints goes to a file in `folder`.

    However this ends, no process is left behind.
    """
    logs = folder / datetime.now().strftime(f"%Y%m%d-%H%M%S-{os.getpid()}")
    codes: list[int | None] = [None] * len(jobs)
    waiting, workers = deque(range(len(jobs))), [_started(task, num) for _ in range(min(num, len(jobs)))]

    def over(worker: Worker, code: int | None) -> None:
        assert worker.job is not None
        codes[worker.job] = code
        if task.ledger is not None:
            task.ledger.settle(jobs[worker.job].words, code)
        if code != 0:
            Console().warn(f"{' '.join(jobs[worker.job].words)}: what it printed is in {_log(logs, worker.job)}")
        worker.job = None

    try:
        while waiting or any(worker.job is not None for worker in workers):
            for worker in workers:
                if worker.job is None and waiting:
                    worker.job = waiting.popleft()
                    with suppress(BrokenPipeError):  # it is dead, as is seen below
                        worker.line.send((jobs[worker.job], _log(logs, worker.job)))
            busy = [worker for worker in workers if worker.job is not None]
            wait([ready for worker in busy for ready in (worker.line, worker.process.sentinel)])
            for worker in busy:
                if worker.line.poll():
                    try:
                        over(worker, worker.line.recv())
                        continue
                    except EOFError:
                        worker.process.join()
                if not worker.process.is_alive():
                    over(worker, None)
                    workers.remove(worker)
                    workers += [_started(task, num)] if waiting else []
    finally:
        _end_all(workers)
    return codes


def _started(task: Task, num: int) -> Worker:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=work, args=(task, there, num))
    process.start()
    there.close()
    return Worker(process, here)


def _end_all(workers: Sequence[Worker]) -> None:
    """End all workers: by SIGTERM, which saves a run, and after a while by SIGKILL."""
    for worker in workers:
        worker.line.close()
        worker.process.terminate()
    deadline = time.monotonic() + SECONDS_TO_END
    for worker in workers:
        worker.process.join(max(deadline - time.monotonic(), 0))
        worker.process.kill()


def _log(folder: Path, job: int) -> Path:
    return folder / f"job-{job}.log"


def work(task: Task, line: Connection, num: int) -> None:
    """The main function of a worker: run jobs from the connection, one after the other, until it is closed."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C goes to the parent too, which ends its workers in order
    signal.signal(signal.SIGTERM, interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(torch.get_num_threads() // num, 1))
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            job, log = line.recv()
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            try:
                code = task.run(job)
            except Exception:
                traceback.print_exc()
                code = 1
            line.send(code)


def interrupt(number: int, frame: object) -> None:
    """On SIGTERM, end as on Ctrl-C: files are closed and run.json says so."""
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
