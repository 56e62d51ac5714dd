"""Executing one run: its directory, its status, its report."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError

from dpo_lab.artifacts.fingerprint import flat, group_key
from dpo_lab.artifacts.provenance import hardware
from dpo_lab.artifacts.store import Store
from dpo_lab.pipeline.base import DivergedError, runner_of
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.report import report
from dpo_lab.pipeline.resume import facts_of_mixed_run, run_to_resume
from dpo_lab.pipeline.stopping import listening
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_keys import code_of_study, config_key, input_digests, run_environment, settings_key
from dpo_lab.tracking import Console, RunDirectory, read_run
from dpo_lab.tracking.run_directory import path_below
from dpo_lab.training.checkpoints import Checkpoints


def execute(study: Study, config: DictConfig, overrides: Sequence[str], command: str, alone: bool = True) -> int:
    """Run the study, in a directory of its own or in that of the run that it resumes (`alone`: no other process runs it).

    The exit status: 0 done, 1 failed or diverged, 2 the user's mistake. However it ends, run.json says so. Raises
    PreemptedError where it is stopped from outside.
    """
    console = Console()
    study.compute.set_up()
    with listening() as stopping:
        try:
            below = path_below(Path(study.runs), study.name)
            for field, folder in (("runs", Path(study.runs)), ("store", Path(study.store)), ("name", below)):
                _make_folder(field, folder)
            Store(Path(study.store), accept=study.accept).check_accepted()
            context = _opened(study, config, overrides, command, run_to_resume(study, alone, console.warn), console)
        except ValueError as error:
            print("error:", " ".join(str(error).split()), file=sys.stderr)
            return 2
        context.stopping = stopping
        return _carried_out(context, config)


def _make_folder(field: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{field}: cannot make the directory {folder} ({error.strerror})") from error


def _opened(
    study: Study, config: DictConfig, overrides: Sequence[str], command: str, unfinished: Path | None, console: Console
) -> Context:
    """A new run's directory, or that of `unfinished` as it was at its newest good checkpoint."""
    key, store = config_key(study), Store(Path(study.store), accept=study.accept, on_note=console.note)

    def checkpoints(path: Path) -> Checkpoints:
        keep = study.trainer.keep_last, study.trainer.keep_every
        return Checkpoints(path / "checkpoints", settings_key(study), console.warn, *keep)  # which other code may resume from

    try:
        if unfinished is not None:
            kept = checkpoints(unfinished)
            checkpoint = kept.newest()
            step = None if checkpoint is None else checkpoint.step
            now = {**run_environment(study), "hardware": hardware()}
            run = RunDirectory.resume(
                unfinished, step, study.runner.trains, **now, **facts_of_mixed_run(read_run(unfinished), now)
            )
            console.note(f"resuming {'from the beginning' if step is None else f'after step {step}'} of {run.path}")
            return Context(study, console, run, store, kept, checkpoint=checkpoint)
        run = RunDirectory.create(Path(study.runs), study.name, _label(overrides), study.runner.trains)
    except OSError as error:
        raise ValueError(f"runs: cannot write to {unfinished or study.runs} ({error.strerror})") from error
    try:
        run.write_config(OmegaConf.to_yaml(config, resolve=True))
        facts = {"command": command, "overrides": list(overrides), "seed": study.seed, "world_size": 1}
        facts["runner"] = study.runner.name
        keys = {"config_key": key, "settings_key": settings_key(study)}
        run.start({**facts, **keys, **run_environment(study), "read": input_digests(study)})
    except OSError as error:
        run.close()
        shutil.rmtree(run.path, ignore_errors=True)
        raise ValueError(f"runs: cannot write to {run.path} ({error.strerror})") from error
    return Context(study, console, run, store, checkpoints(run.path))


def _carried_out(context: Context, config: DictConfig) -> int:
    study, console, run = context.study, context.console, context.run
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    status, reason, code = "failed", "", 1
    try:
        if context.checkpoint is None:  # else it is in an earlier event file
            written = code_of_study(study)
            group = group_key(dict(flat(plain)), written.modules, written.versions)
            run.log_hparams(plain, group_name=f"{study.name}-{group[:8]}")
        summary = runner_of(study).run(context)
        for accepted in context.store.not_taken():
            console.warn(f"store.accept: no stage could take {accepted}: this run has none of the kind, or of other settings")
        summary["wall_s"] = context.stage_seconds
        run.write_summary(summary)
        status, code = "done", 0  # whatever becomes of the report, the results are there
        run.update(status=status)
        report(context, summary)
    except DivergedError as error:
        status, reason = "diverged", str(error)
        console.warn(f"diverged: {error}")
    except ValueError as error:
        reason, code = " ".join(str(error).split()), 2
        print(f"error: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        if status != "done":
            status, reason = "preempted", "interrupted"
            console.warn(f"interrupted; what there is, is in {run.path}, and the same command resumes it")
        raise
    except (OSError, SafetensorError) as error:  # the machine's: a full disk, a file that has gone
        reason = str(error)
        print(f"error: {error}; what there is, is in {run.path}, and the same command resumes it", file=sys.stderr)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    finally:
        try:
            used = {"artifacts": context.store.used, "accepted": context.store.accepted}
            run.finish(status, **({"reason": reason} if reason else {}), **used)
        except OSError as error:
            console.warn(f"run.json does not say that the run {status}: {error}")
        run.close()
    if code == 2:
        run.discard()
    return code


def _label(overrides: Sequence[str]) -> str:
    """What distinguishes this run from others of its name: the last part of each setting and its value."""
    settings = (word.lstrip("+").partition("=") for word in overrides)
    return "_".join(
        f"{key.rpartition('.')[2]}-{Path(value).name}"
        for key, _, value in settings
        if key not in {"experiment", "name", "runs", "store", "resume"}
    )
