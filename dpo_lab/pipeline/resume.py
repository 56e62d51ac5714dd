"""Which run a command resumes: the unfinished one of the same study, or the one that `resume` names."""

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
"""Facts of run.json on which the bits depend. Hardware is one more, but a preempted run may be given another machine: that is
only reported.
"""


def finished_run(study: Study, tell: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest finished run of exactly this study, if there is one. One that other code has made is only reported.

    None for a study that does not train: what it depends on is not all in its settings.
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
        changes = _changes(facts, now, ("code", "versions")) or ["it was resumed under other code than it began with"]
        tell(f"{path} is finished, but run again: {'; '.join(changes)}")
    return None


def run_to_resume(study: Study, alone: bool, tell: Callable[[str], None]) -> Path | None:
    """The run to resume, None for a new one. `alone`: no other process runs this study.

    Raises ValueError where `resume` names a run that cannot be resumed.
    """
    if study.resume not in (AUTO, NEVER):
        return _named_run(study, tell)
    return unfinished_run(study, tell) if alone and study.resume == AUTO else None


def unfinished_run(study: Study, tell: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest run of exactly this study, if it has not ended and code, versions and threads are still the same.

    Otherwise its end need not be that of a run that was never interrupted.
    """
    key, now = config_key(study), run_environment(study)
    for path, facts in _runs_of(study):
        if facts["status"] in ENDED:
            return None
        if is_being_written(path):
            continue
        changes = _changes(facts, now, DECISIVE_FACTS)
        if changes:
            tell(f"{path} is not resumed, as it would end differently ({'; '.join(changes)}): resume={path} resumes it anyway")
        if changes or facts.get("config_key") != key:
            continue
        for line in describe_values(facts.get("hardware", {}), hardware()):
            tell(f"{path} began on other hardware, which may change the last bits: {line}")
        return path
    return None


def _named_run(study: Study, tell: Callable[[str], None]) -> Path:
    path = Path(study.resume)
    facts = read_run(path)
    if facts.get("status") in ENDED:
        raise ValueError(f"resume: {path} has ended ({facts['status']}): there is nothing to resume")
    if is_being_written(path):
        raise ValueError(f"resume: another process is at {path}")
    if "settings_key" not in facts:
        raise ValueError(f"resume: {path} is of an older version, whose runs this one cannot resume; start a new run")
    if facts["settings_key"] != settings_key(study):
        changes = describe_values(facts.get("read", {}), input_digests(study))
        raise ValueError(f"resume: {path} began with other files ({'; '.join(changes) or 'unknown ones'}); start a new run")
    for line in _changes(facts, {**run_environment(study), "hardware": hardware()}, (*DECISIVE_FACTS, "hardware")):
        tell(f"{path} began under other conditions, so its end need not be the same to the bit: {line}")
    return path


def facts_of_mixed_run(facts: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of a run that is resumed under other code, versions, threads or device than it began with."""
    changes = _changes(facts, now, DECISIVE_FACTS)
    if not changes:
        return {}
    return {"config_key": "mixed", "changed_on_the_way": [*facts.get("changed_on_the_way", []), *changes]}


def _changes(facts: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """A phrase for each of these facts that has changed since the run began."""
    return describe_changes({name: facts.get(name) for name in names}, {name: now[name] for name in names})


def _runs_of(study: Study) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs of this study's settings and files, with their run.json, the newest first."""
    key = settings_key(study)
    for file in sorted(path_below(Path(study.runs), study.name).glob("*/run.json"), reverse=True):
        facts = read_run(file.parent)
        if facts.get("settings_key") == key:
            yield file.parent, facts
