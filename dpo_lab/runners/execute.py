"""One run from start to end: its directory, its status, its report."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dpo_lab.artifacts import DamagedError, Store, digest, verify_directory
from dpo_lab.runners.base import DivergedError
from dpo_lab.runners.context import Context
from dpo_lab.runners.report import report
from dpo_lab.runners.study import Study
from dpo_lab.tracking import Console, RunDirectory, read_run
from dpo_lab.tracking.provenance import git_state, versions
from dpo_lab.tracking.run_directory import path_below
from dpo_lab.tracking.tensorboard import seedless


def execute(study: Study, config: DictConfig, overrides: Sequence[str], command: str, half_done: HalfDone | None = None) -> int:
    """Run the study in a directory of its own. The exit status: 0 done, 1 failed or diverged, 2 the user's mistake.

    However it ends, run.json says so. A KeyboardInterrupt is passed on. `half_done` is an interrupted run of this study, to go
    on with.
    """
    console = Console()
    study.compute.set_up()
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    below = path_below(Path(study.runs), study.name)
    for field, folder in (("runs", Path(study.runs)), ("name", below), ("store", Path(study.store))):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            print(f"error: {field}: cannot make the directory {folder} ({error.strerror})", file=sys.stderr)
            return 2
    if half_done is None:
        run = RunDirectory.create(Path(study.runs), study.name, label=_label(overrides))
        run.write_config(OmegaConf.to_yaml(config, resolve=True))
        run.start(
            {
                "command": command,
                "overrides": list(overrides),
                "seed": study.seed,
                "threads": torch.get_num_threads(),
                "world_size": 1,
                "device": str(study.compute.torch_device),
                "config_key": config_key(study),
            }
        )
    else:
        run = RunDirectory.resume(half_done.path, half_done.step)
        console.note(f"going on after step {half_done.step} of {run.path}")
    context = Context(study, console, run, Store(Path(study.store)), None if half_done is None else half_done.checkpoint)
    run.log_hparams(plain, group_name=f"{study.name}-{digest(seedless(plain))[:8]}")
    status, reason, code = "failed", "", 1
    try:
        summary = study.runner.run(context)
        summary["wall_s"] = context.stage_seconds
        run.write_summary(summary)
        status, code = "done", 0  # whatever the report does, the results are there
        report(context, summary)
    except DivergedError as error:
        status, reason = "diverged", str(error)
        console.warn(f"diverged: {error}")
    except ValueError as error:
        reason, code = " ".join(str(error).split()), 2
        print(f"error: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        status, reason = "preempted", "interrupted"
        console.warn(f"interrupted; what there is, is in {run.path}")
        raise
    except Exception as error:
        reason, code = f"{type(error).__name__}: {error}", 1
        traceback.print_exc()
    finally:
        run.finish(status, **({"reason": reason} if reason else {}), artifacts=context.store.used)
        run.close()
    return code


def config_key(study: Study) -> str:
    """The same for two runs that compute the same: all settings and the data's files, but not where results are put."""
    return digest([replace(study, runs="runs", store="artifacts"), study.data.fingerprint()])


def finished_run(study: Study) -> Path | None:
    """The newest finished run of exactly this study, if there is one."""
    found = (path for path, facts in _runs_of(study) if facts["status"] == "done" and (path / "summary.json").is_file())
    return next(found, None)


@dataclass
class HalfDone:
    """A run that stopped on its way, and its last checkpoint."""

    path: Path
    checkpoint: Path
    step: int


def half_done_run(study: Study) -> HalfDone | None:
    """The newest run of exactly this study that can be gone on with, if there is one.

    It must have left a whole checkpoint, by the same code and versions, on as many threads: else the end would not be that of a
    run that was never interrupted.
    """
    same = {"git": git_state(), "versions": versions(), "threads": study.compute.threads or torch.get_num_threads()}
    for path, facts in _runs_of(study):
        if facts["status"] in ("done", "diverged") or any(facts.get(name) != value for name, value in same.items()):
            continue
        try:
            last = json.loads((path / "checkpoints" / "index.json").read_text())["last"]
            checkpoint = path / "checkpoints" / last["checkpoint"]
            verify_directory(checkpoint)
        except (OSError, KeyError, ValueError, DamagedError):
            continue
        return HalfDone(path, checkpoint, last["step"])
    return None


def _runs_of(study: Study) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs of exactly this study, with their run.json, the newest first."""
    key = config_key(study)
    for file in sorted(path_below(Path(study.runs), study.name).glob("*/run.json"), reverse=True):
        facts = read_run(file.parent)
        if facts.get("config_key") == key:
            yield file.parent, facts


def _label(overrides: Sequence[str]) -> str:
    """What distinguishes this run from others of its name: the last part of each setting and its value."""
    settings = (word.lstrip("+").partition("=") for word in overrides)
    return "_".join(
        f"{key.rpartition('.')[2]}-{Path(value).name}"
        for key, _, value in settings
        if key not in {"experiment", "name", "runs", "store"}
    )
