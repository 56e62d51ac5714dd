"""The command: parse the words, validate every job, run them."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Sequence

from hydra._internal.hydra import Hydra
from yaml import YAMLError

from dpo_lab.cli.arguments import CommandLine, parse_arguments
from dpo_lab.cli.composing import PRIMARY, Composer
from dpo_lab.cli.grammar import of_hydra, spelled_out
from dpo_lab.cli.planning import in_order, jobs_of_command
from dpo_lab.cli.showing import show
from dpo_lab.cli.sweeps import Ledger, Task
from dpo_lab.cli.sweeps.ledger import JobState
from dpo_lab.cli.sweeps.processes import interrupt
from dpo_lab.cli.validation import validated
from dpo_lab.pipeline.resume import AUTO, NEVER
from dpo_lab.pipeline.stopping import PreemptedError
from dpo_lab.tracking import Console


def run_command(arguments: Sequence[str]) -> int:
    """The exit status of a whole command; see `__main__`."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        command = parse_arguments(arguments)
        composer = Composer(command.folders, command.user_modules)
        hydra = Hydra("dpo_lab", composer)
        if command.only_shows:
            show(command, composer, hydra)
            return 0
        task = checked(command, composer)
    except (ValueError, YAMLError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return run(hydra, task, in_order(command.words))


def checked(command: CommandLine, composer: Composer) -> Task:
    """Compose and validate every job of the command, before any is run. Raises ValueError for an invalid one."""
    commanded = jobs_of_command(command.words, command.options.multirun, composer)
    hydra_words = [word for word in command.words if of_hydra(word)]
    task = Task(command.written, composer, hydra_words, commanded.multirun)
    task.ledger = Ledger() if commanded.multirun and not commanded.search else None
    for words in commanded.jobs:
        job = task.job(words)
        study = validated(job.config, words)
        if commanded.multirun and job.config.resume not in (AUTO, NEVER):
            raise ValueError("resume=RUN resumes a single run: leave out -m, or RUN")
        if task.ledger is not None:
            task.ledger.add(words, study)
    return task


def run(hydra: Hydra, task: Task, words: list[str]) -> int:
    """Run the jobs, as Hydra's launchers and sweepers do it; the exit status."""
    try:
        if task.multirun:
            hydra.multirun(PRIMARY, task, spelled_out(words))
        else:
            hydra.run(PRIMARY, task, words)
    except PreemptedError:
        return 130 if task.multirun else 0  # a single run is saved; of a sweep jobs are missing
    except KeyboardInterrupt:
        return 130
    except SystemExit as ended:  # of Hydra's, or a plugin's that has said why
        return ended.code if isinstance(ended.code, int) else 1
    finally:
        if task.ledger is not None and len(task.ledger.of(JobState.waiting)) < len(task.ledger.entries):
            sum_up(task.ledger)
    return task.code if task.ledger is None else int(bool(task.ledger.bad))


def sum_up(ledger: Ledger) -> None:
    """Print how many jobs of a sweep ended in which state, and each that failed."""
    console, counts = Console(), Counter(entry.state for entry in ledger.entries)
    console.note("sweep: " + ", ".join(f"{counts[state]} {state}" for state in JobState if counts[state]))
    for entry in (entry for entry in ledger.of(JobState.reused) if entry.reason):
        console.note(f"{entry.state}: {ledger.title(entry)}, {entry.reason} ({entry.run})")
    for entry in ledger.bad:
        reason = f" ({entry.reason})" if entry.reason not in ("", entry.state.value) else ""
        console.warn(f"{entry.state}: {ledger.title(entry)}{reason}" + (f", in {entry.run}" if entry.run else ""))
