"""Which run a command goes on with: the unfinished one of the same study, or the one that is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.fingerprint import (
    describe_changes,
    describe_values,
)
from dpo_lab.artifacts.provenance import hardware
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_keys import config_key, input_digests, run_environment, settings_key
from dpo_lab.tracking import read_run
from dpo_lab.tracking.run_directory import is_being_written, path_below

AUTO, NEVER = "auto", "never"
ENDED = ("done", "diverged")
DECISIVE_FACTS = ("code", "versions", "threads", "device")
"""Facts of run.json on which the bits depend. Hardware too, but a preempted run may be given another machine: it is told of."""


def finished_run(study: Study, tell: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest finished run of exactly this study, if there is one. Of one that other code has made it is only told.

    None of a study that only looks, measures or judges: what it depends on is not all in its settings.
    """
    if not study.runner.trains:
        return None
    key, now = config_key(study), run_environment(study)
    others = []
    for path, facts in _runs_of(study):
        if facts["status"] == "done" and (path / "summary.json").is_file():
            if facts.get("config_key") == key:
                return path
            others.append((path, facts))
    for path, facts in others[:1]:
        found = _changes(facts, now, ("code", "versions")) or ["it went on under other code than it began with"]
        tell(f"{path} is finished, but run again: {'; '.join(found)}")
    return None


def run_to_resume(study: Study, alone: bool, tell: Callable[[str], None]) -> Path | None:
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
    key, now = config_key(study), run_environment(study)
    for path, facts in _runs_of(study):
        if facts["status"] in ENDED:
            return None
        if is_being_written(path):
            continue
        found = _changes(facts, now, DECISIVE_FACTS)
        if found:
            tell(f"{path} is not gone on with, as its end would be another ({'; '.join(found)}): resume={path} does it still")
        if found or facts.get("config_key") != key:
            continue
        for line in describe_values(facts.get("hardware", {}), hardware()):
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
    if "settings_key" not in facts:
        raise ValueError(f"resume: {path} is of an older version, whose runs this one cannot go on with; start a new run")
    if facts["settings_key"] != settings_key(study):
        found = describe_values(facts.get("read", {}), input_digests(study))
        raise ValueError(f"resume: {path} began with other files ({'; '.join(found) or 'unknown ones'}); start a new run")
    for line in _changes(facts, {**run_environment(study), "hardware": hardware()}, (*DECISIVE_FACTS, "hardware")):
        tell(f"{path} began otherwise, so its end need not be the same to the bit: {line}")
    return path


def mixed(facts: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a run that goes on under other code, versions, threads or device than it began with: it is like no other run."""
    found = _changes(facts, now, DECISIVE_FACTS)
    return {"config_key": "mixed", "changed_on_the_way": [*facts.get("changed_on_the_way", []), *found]} if found else {}


def _changes(facts: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Of a run that has begun, a phrase for each of these facts that is another now."""
    return describe_changes({name: facts.get(name) for name in names}, {name: now[name] for name in names})


def _runs_of(study: Study) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs of this study's settings and files, with their run.json, the newest first."""
    key = settings_key(study)
    for file in sorted(path_below(Path(study.runs), study.name).glob("*/run.json"), reverse=True):
        facts = read_run(file.parent)
        if facts.get("settings_key") == key:
            yield file.parent, facts
