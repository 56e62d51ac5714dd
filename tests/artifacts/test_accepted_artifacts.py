"""What is accepted from the store although other code made it: whole artifacts that are there, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dpo_lab.artifacts.digests import digest
from dpo_lab.artifacts.directory import MANIFEST, verify_directory
from dpo_lab.artifacts.fingerprint import Code
from dpo_lab.artifacts.store import Store

THEN, NOW = Code({"a": "1"}), Code({"a": "2"})


def writing(text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / "text").write_text(text)


def without_recipe(path: Path) -> None:
    """As the lab wrote manifests before it kept recipes."""
    manifest = json.loads((path / MANIFEST).read_text())
    for name in ("manifest_digest", "recipe", "code", "rounding"):
        manifest.pop(name)
    (path / MANIFEST).write_text(json.dumps({**manifest, "manifest_digest": digest(manifest)}))


def test_what_is_accepted_but_damaged_is_built_again_under_its_own_key(tmp_path: Path) -> None:
    old, then = Store(tmp_path).get("base", {"x": 1}, writing("then"), THEN)
    (old / "text").write_text("THEN")
    notes: list[str] = []
    store = Store(tmp_path, accept=["base"], on_note=notes.append)
    path, key = store.get("base", {"x": 1}, writing("now"), NOW)
    assert key != then
    assert store.accepted == {}
    assert (path / "text").read_text() == "now"
    assert (old / "text").read_text() == "THEN", "under the key of other code there is never what this code made"
    assert notes[0].startswith(f"base: {then} cannot be accepted")


def test_what_is_not_finished_is_no_other_artifact(tmp_path: Path) -> None:
    path, key = Store(tmp_path).get("base", {"x": 1}, writing("then"), THEN)
    path.rename(path.with_name(f".{key}-x"))  # as a builder leaves it that is killed just before the end
    odd = path.with_name("odd")
    odd.mkdir()
    (odd / MANIFEST).write_text("[]")
    notes: list[str] = []
    store = Store(tmp_path, accept=["base"], on_note=notes.append)
    store.get("base", {"x": 1}, writing("now"), NOW)
    assert (store.accepted, notes) == ({}, [])


def test_an_artifact_from_before_recipes_were_kept_is_taken_by_its_key(tmp_path: Path) -> None:
    old, then = Store(tmp_path).get("base", {"x": 1}, writing("then"), THEN)
    without_recipe(old)
    assert "recipe" not in verify_directory(old)
    notes: list[str] = []
    assert Store(tmp_path, accept=[then], on_note=notes.append).get("base", {"x": 2}, writing("now"), NOW) == (old, then)
    assert notes == [f"base: {then} is accepted, although it is from before artifacts said what made them"]
    assert Store(tmp_path, accept=["base"]).get("base", {"x": 2}, writing("now"), NOW)[1] != then, "which may be any"


def test_a_key_that_no_artifact_has_is_refused_and_one_that_was_not_taken_is_said(tmp_path: Path) -> None:
    _, then = Store(tmp_path).get("base", {"x": 1}, writing("then"), THEN)
    with pytest.raises(ValueError, match="no artifact 0123456789abcdef"):
        Store(tmp_path, accept=["0123456789abcdef"]).check_accepted()
    store = Store(tmp_path, accept=[then, "base", "reference_scores"])
    store.check_accepted()
    store.get("base", {"x": 2}, writing("now"), NOW)
    assert store.not_taken() == [then, "reference_scores"]
    store.get("base", {"x": 1}, writing("now"), NOW)
    assert store.not_taken() == ["reference_scores"]
