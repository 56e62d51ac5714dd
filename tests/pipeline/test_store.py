"""The artifact store is shown, checked and cleared: nothing that is used or being built goes, and nothing at all unasked."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from dpo_lab.artifacts.directory import MANIFEST, verify_directory
from dpo_lab.artifacts.store import Store, lock_file
from dpo_lab.cli.main import run_command
from dpo_lab.pipeline.artifact_listing import list_artifacts, remove_artifact, uses
from dpo_lab.pipeline.runners.store import StoreAction, StoreRunner

DAYS = {"fresh": 0.0, "used": 40.0, "old": 40.0, "damaged": 5.0}


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A store with an artifact of each sort, and a run that has used one of them (and some that are no longer there)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("sys.argv", ["x"])
    store, found = Store(tmp_path / "artifacts"), {}
    for name, days in DAYS.items():
        path, found[name] = store.get("toy", {"name": name}, lambda d: (d / "x").write_bytes(b"0" * 1000))
        then = time.time() - days * 86400
        os.utime(path / MANIFEST, (then, then))
    (tmp_path / "artifacts" / "toy" / found["damaged"] / "x").write_bytes(b"1")
    begun = tmp_path / "artifacts" / "toy" / f".{found['fresh']}-abc"
    begun.mkdir()
    for place, artifacts in {"a/1": {"toy": [found["used"], "gone"]}, "b": {"other": "x"}, "c": [1], "d": None}.items():
        run = tmp_path / "runs" / place
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"status": "done", "artifacts": artifacts}))
    (tmp_path / "runs" / "b" / "run.json").write_text("{")
    return found


def present(folder: Path) -> set[str]:
    return {path.name for path in (folder / "artifacts" / "toy").iterdir() if path.is_dir()}


def store_command(*words: str) -> int:
    return run_command(["runner=store", *words])


def test_listing_shows_everything_and_leaves_no_run(keys: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    assert store_command() == 0
    shown = capsys.readouterr().out
    assert all(key in shown for key in keys.values())
    assert "5 artifacts" in shown
    assert {p.name for p in tmp_path.iterdir()} == {"artifacts", "runs"}
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"a", "b", "c", "d"}
    assert uses(tmp_path / "runs")["toy", keys["used"]] == 1


def test_verifying_finds_the_damage(keys: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    assert store_command("runner.do=verify") == 1
    out = capsys.readouterr().out
    assert "x is missing or altered" in out
    assert "2 damaged" in out
    store_command("runner.do=prune", "runner.damaged=true", "runner.delete=true")
    assert store_command("runner.do=verify") == 0


PRUNED = {
    "runner.unused=true": {"old", "damaged"},
    "runner.unused=true runner.days=20": {"old"},
    "runner.unused=true runner.days=0": {"old", "damaged", "fresh"},
    "runner.days=30": {"old", "used"},
    "runner.damaged=true": {"damaged", "begun"},
    "runner.damaged=true runner.unused=true runner.days=3": {"damaged"},
}


@pytest.mark.parametrize("words", PRUNED)
def test_what_goes_meets_every_condition_and_only_if_it_is_said(words: str, keys: dict[str, str], tmp_path: Path) -> None:
    names = {**keys, "begun": f".{keys['fresh']}-abc"}
    before = present(tmp_path)
    assert store_command("runner.do=prune", *words.split()) == 0
    assert present(tmp_path) == before, "that was a dry run"
    assert store_command("runner.do=prune", *words.split(), "runner.delete=true") == 0
    assert before - present(tmp_path) == {names[name] for name in PRUNED[words]}


def test_what_is_being_built_or_was_asked_for_since_stays(keys: dict[str, str], tmp_path: Path) -> None:
    toy = tmp_path / "artifacts" / "toy"
    with FileLock(lock_file(toy, keys["old"])):
        store_command("runner.do=prune", "runner.days=30", "runner.delete=true")
    assert keys["old"] in present(tmp_path)
    one = next(one for one in list_artifacts(tmp_path / "artifacts", tmp_path / "runs") if one.key == keys["old"])
    Store(tmp_path / "artifacts").get("toy", {"name": "old"}, lambda d: None)
    assert not remove_artifact(one)
    verify_directory(toy / keys["old"])


def test_links_lead_nowhere(keys: dict[str, str], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "kind" / "key"
    elsewhere.mkdir(parents=True)
    (tmp_path / "artifacts" / "linked").symlink_to(tmp_path / "elsewhere" / "kind")
    (tmp_path / "artifacts" / "toy" / "linked").symlink_to(elsewhere)
    (tmp_path / "artifacts" / "toy" / keys["old"] / "link").symlink_to(tmp_path / "elsewhere")
    store_command("runner.do=prune", "runner.days=0", "runner.delete=true")
    assert elsewhere.is_dir()
    assert not present(tmp_path) & set(keys.values())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"do": StoreAction.prune}, "needs a condition"),
    ({"unused": True}, "are for runner.do=prune"),
    ({"do": StoreAction.prune, "days": -1.0}, "runner.days"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_what_is_not_asked_clearly_is_not_done(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoreRunner(**fields)


def test_a_store_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["x"])
    assert store_command("store=nowhere") == 2
    assert capsys.readouterr().err == "error: store: there is no directory nowhere; store=DIRECTORY names another\n"
