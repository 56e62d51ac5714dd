"""Which run a command goes on with: the unfinished one of the same study, or the one that is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpo_lab.artifacts import MANIFEST, digest, file_digest
from dpo_lab.policies import policy_directory
from dpo_lab.runners.study import Study
from dpo_lab.tracking import read_run
from dpo_lab.tracking.provenance import code_digest, hardware, versions
from dpo_lab.tracking.run_directory import is_being_written, path_below

AUTO, NEVER = "auto", "never"
ENDED = ("done", "diverged")
DECISIVE = ("code", "versions", "threads", "device")
"""Facts of run.json on which the bits depend. Hardware too, but a preempted run may be given another machine: it is told of."""


def config_key(study: Study) -> str:
    """The same for two runs that compute the same: all settings and what is read, but not where and how often it is put."""
    seldom = replace(study.trainer, checkpoint_every=None, keep_last=1, keep_every=None)
    return digest([replace(study, runs="runs", store="artifacts", resume=AUTO, trainer=seldom), read_from_disk(study)])


def read_from_disk(study: Study) -> dict[str, Any]:
    """Digests of the files that the study starts from."""
    weights = study.model.weights()
    manifest = None if weights is None else policy_directory(weights) / MANIFEST
    found = {} if manifest is None or not manifest.is_file() else {"model": file_digest(manifest)}
    return found | {"data": study.data.fingerprint()}


def surroundings(study: Study) -> dict[str, Any]:
    """The facts that `DECISIVE` names, as they are now."""
    return {
        "code": code_digest(study.user_modules),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "device": str(study.compute.torch_device),
    }


def finished_run(study: Study) -> Path | None:
    """The newest finished run of exactly this study, if there is one."""
    found = (path for path, facts in _runs_of(study) if facts["status"] == "done" and (path / "summary.json").is_file())
    return next(found, None)


def to_go_on_with(study: Study, alone: bool, tell: Callable[[str], None]) -> Path | None:
    """The run to go on with, None for a new one. `alone`: no other process is at this study.

    Raises ValueError where `resume` names a run that cannot be gone on with.
    """
    if study.resume not in (AUTO, NEVER):
        return _named_run(study, tell)
    return unfinished_run(study, tell) if alone and study.resume == AUTO else None


def unfinished_run(study: Study, tell: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest run of exactly this study, if it has not ended and the same code, versions and threads are here as there.

    Else its end need not be that of a run that was never interrupted.
    """
    now = surroundings(study)
    for path, facts in _runs_of(study):
        if facts["status"] in ENDED:
            return None
        if is_being_written(path):
            continue
        changed = differences({name: facts.get(name) for name in DECISIVE}, now)
        if changed:
            tell(f"{path} is not gone on with, as its end would be another ({'; '.join(changed)}): resume={path} does it still")
            continue
        for line in differences(facts.get("hardware", {}), hardware()):
            tell(f"{path} began on other hardware, which may change the last bits: {line}")
        return path
    return None


def _named_run(study: Study, tell: Callable[[str], None]) -> Path:
    path = Path(study.resume)
    facts = read_run(path)
    if facts.get("status") in ENDED:
        raise ValueError(f"resume: {path} has ended ({facts['status']}): there is nothing to go on with")
    if is_being_written(path):
        raise ValueError(f"resume: another process is at {path}")
    if facts.get("config_key") != config_key(study):
        changed = differences(facts.get("read", {}), read_from_disk(study))
        raise ValueError(f"resume: {path} began with other files ({'; '.join(changed) or 'unknown ones'}); start a new run")
    then = {name: facts.get(name) for name in (*DECISIVE, "hardware")}
    for line in differences(then, {**surroundings(study), "hardware": hardware()}):
        tell(f"{path} began otherwise, so its end need not be the same to the bit: {line}")
    return path


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each value that is not the same, by its dotted name."""
    one, other = dict(_flat(then)), dict(_flat(now))
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [f"{name}: {_short(one.get(name))} then, {_short(other.get(name))} now" for name in names]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    return str(value) if len(str(value)) <= 40 else f"{str(value)[:12]}..."


def _runs_of(study: Study) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs of exactly this study, with their run.json, the newest first."""
    key = config_key(study)
    for file in sorted(path_below(Path(study.runs), study.name).glob("*/run.json"), reverse=True):
        facts = read_run(file.parent)
        if facts.get("config_key") == key:
            yield file.parent, facts
