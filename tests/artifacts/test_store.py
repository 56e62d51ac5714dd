"""Artifacts: whole or absent, verified to the byte, built once by any number of processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.artifacts import directory
from dpo_lab.artifacts.digests import digest
from dpo_lab.artifacts.directory import MANIFEST, DamagedError, verify_directory, write_directory
from dpo_lab.artifacts.store import Store

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


class Colour(Enum):
    red = "r"


@dataclass
class Settings:
    name: str = "x"
    size: int = 3


def build(directory: Path) -> None:
    (directory / "weights.bin").write_bytes(bytes(range(7)))
    (directory / "deep").mkdir()
    (directory / "deep" / "notes.txt").write_text("kept")


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# ---- digest


@given(value=JSON_VALUES)
def test_a_digest_depends_on_the_value_and_not_on_the_order_of_its_keys(value: Any) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(list(value))}
        return tuple(map(turned, value)) if isinstance(value, list) else value

    assert digest(value) == digest(turned(value)) == digest(json.loads(json.dumps(value)))
    assert len(digest(value)) == 16
    int(digest(value), 16)


@given(one=JSON_VALUES, other=JSON_VALUES)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


def test_records_enums_and_paths_are_digested_by_what_they_hold() -> None:
    assert digest(Settings()) == digest({"size": 3, "name": "x"})
    assert digest(Settings(size=4)) != digest(Settings())
    assert digest({"c": Colour.red, "p": Path("a") / "b"}) == digest({"c": "red", "p": "a/b"})


def test_a_digest_is_the_same_in_another_process() -> None:
    command = "from dpo_lab.artifacts.digests import digest\nprint(digest({'a': [1, 2.5, None], 'b': 'é'}))"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == digest({"b": "é", "a": [1, 2.5, None]})


def test_what_is_no_value_cannot_be_part_of_a_key() -> None:
    with pytest.raises(AssertionError, match="cannot be part of a key"):
        digest({"f": object()})


# ---- write_directory


def test_its_files_are_as_open_as_the_umask_lets_files_be(tmp_path: Path) -> None:
    """Other members of a group share a store, and some libraries write files that only their owner can read."""
    before = os.umask(0o022)
    try:
        write_directory(tmp_path / "a", lambda d: (d / "closed.bin").touch(mode=0o600))
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "a").iterdir()} == {0o644}


def test_a_written_directory_holds_what_was_built_and_its_facts(tmp_path: Path) -> None:
    write_directory(tmp_path / "a", build, kind="toy", size=3)
    manifest = verify_directory(tmp_path / "a")
    assert {key: manifest[key] for key in ("kind", "size")} == {"kind": "toy", "size": 3}
    assert set(manifest["files"]) == {"weights.bin", "deep/notes.txt"}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_directory_that_is_written_again_holds_nothing_of_the_previous_one(tmp_path: Path) -> None:
    write_directory(tmp_path / "a", build)
    write_directory(tmp_path / "a", lambda d: (d / "new.txt").write_text("new"))
    verify_directory(tmp_path / "a")
    assert set(contents(tmp_path / "a")) == {"new.txt", MANIFEST}


@pytest.mark.parametrize("before", [True, False])
def test_a_build_that_raises_leaves_what_was_there(tmp_path: Path, before: bool) -> None:
    path = tmp_path / "a"
    if before:
        write_directory(path, build)
    held = contents(tmp_path)

    def fail(directory: Path) -> None:
        build(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_directory(path, fail)
    assert contents(tmp_path) == held
    assert not before or verify_directory(path)


STEPS = (
    (Path, "write_text"),
    (Path, "write_bytes"),
    (directory, "file_digest"),
    (directory, "flush"),
    (os, "fsync"),
    (os, "replace"),
    (shutil, "rmtree"),
)


@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_a_failure_at_any_write_leaves_the_previous_directory_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    original = getattr(owner, name)

    def failing_at(count: int) -> Callable[..., Any]:
        left = [count]

        def step(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(28, "No space left on device")
            return original(*arguments, **options)

        return step

    def other(directory: Path) -> None:
        (directory / "weights.bin").write_bytes(b"other")
        (directory / "more.txt").write_text("more")

    failures = 0
    for count in range(20):
        path = tmp_path / str(count) / "a"
        write_directory(path, build)
        old = contents(path)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing_at(count))
            try:
                write_directory(path, other)
            except OSError:
                failures += 1
        assert path.is_dir(), f"nothing is left after a failure at {name} number {count}"
        verify_directory(path)
        found = contents(path)
        assert found == old or set(found) == {"weights.bin", "more.txt", MANIFEST}
    assert failures, "the step was never taken: the test injects nothing"


# ---- verify_directory


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_any_flipped_byte_is_detected(tmp_path: Path, flip: int) -> None:
    write_directory(tmp_path / "a", build, kind="toy", count=12)
    unnoticed = []
    for file in sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for i in range(len(whole)):
            file.write_bytes(whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1 :])
            try:
                verify_directory(tmp_path / "a")
                unnoticed.append((file.name, i, whole[max(i - 20, 0) : i + 1]))
            except DamagedError:
                pass
        file.write_bytes(whole)
    assert not unnoticed, f"{len(unnoticed)} flipped bytes went unnoticed, the first: {unnoticed[:3]}"


def test_any_truncation_is_detected(tmp_path: Path) -> None:
    write_directory(tmp_path / "a", build)
    for file in sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            with pytest.raises(DamagedError, match=str(tmp_path / "a")):
                verify_directory(tmp_path / "a")
        file.write_bytes(whole)
    verify_directory(tmp_path / "a")


def test_any_missing_file_is_detected(tmp_path: Path) -> None:
    write_directory(tmp_path / "a", build)
    for name in contents(tmp_path / "a"):
        twin = shutil.copytree(tmp_path / "a", tmp_path / "twin")
        (twin / name).unlink()
        with pytest.raises(DamagedError, match=Path(name).name):
            verify_directory(twin)
        shutil.rmtree(twin)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "5", "null", '"files"', '{"files": []}', '{"files": {"weights.bin": {}}}', '{"files": {"w": 3}}']
)
def test_a_manifest_of_another_shape_is_damage(tmp_path: Path, text: str) -> None:
    write_directory(tmp_path / "a", build)
    (tmp_path / "a" / MANIFEST).write_text(text)
    with pytest.raises(DamagedError):
        verify_directory(tmp_path / "a")


# ---- Store


def test_the_store_builds_once_and_builds_again_what_is_damaged(tmp_path: Path) -> None:
    events: list[tuple[str, str, str]] = []
    store = Store(tmp_path, on_event=lambda *event: events.append(event))
    path, key = store.get("toy", {"size": 1}, build)
    assert store.get("toy", {"size": 1}, build) == (path, key)
    assert path == tmp_path / "toy" / key
    (path / "weights.bin").write_bytes(b"\1" + bytes(range(1, 7)))
    assert store.get("toy", {"size": 1}, build) == (path, key)
    other, _ = store.get("toy", {"size": 2}, build)
    assert other != path
    verify_directory(path)
    assert [what for _, _, what in events] == ["built", "reused", "damaged", "built", "built"]
    assert {(kind, key) for kind, key, _ in events[:4]} == {("toy", key)}


def test_the_store_records_the_keys_that_were_asked_for_and_what_determined_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path, key = store.get("toy", {"settings": Settings(), "colour": Colour.red}, build)
    assert store.used == {"toy": [key]}
    assert verify_directory(path)["determined_by"] == {"settings": {"name": "x", "size": 3}, "colour": "red"}


def test_a_build_that_raises_leaves_the_store_ready_for_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.get("toy", {}, lambda directory: 1 / 0)
    path, _ = store.get("toy", {}, build)
    verify_directory(path)


GET = """
import pathlib, sys, time
from dpo_lab.artifacts.directory import verify_directory
from dpo_lab.artifacts.store import Store
root, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])

def build(directory):
    with (root / "builds").open("a") as log:
        log.write("1")
    (directory / "first").write_text("first")
    print("building", flush=True)
    time.sleep(seconds)
    (directory / "second").write_text("second")

store = Store(root / "store", on_event=lambda kind, key, what: print(what, flush=True))
print("ready", flush=True)
sys.stdin.readline()
path, key = store.get("toy", {"size": 1}, build)
print((path / "first").read_text(), (path / "second").read_text(), sorted(verify_directory(path)["files"]))
"""


def start(root: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", GET, str(root), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def test_of_processes_that_ask_at_once_one_builds_and_all_get_it_whole(tmp_path: Path) -> None:
    processes = [start(tmp_path, seconds=0.3) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert (tmp_path / "builds").read_text() == "1"
    whole = "first second ['first', 'second']\n"
    assert sorted(out for out, _ in results) == sorted(["building\nbuilt\n" + whole, "reused\n" + whole])


def test_a_killed_builder_leaves_no_lock_and_no_half_artifact(tmp_path: Path) -> None:
    killed = start(tmp_path, seconds=60)
    assert killed.stdin is not None
    assert killed.stdout is not None
    killed.stdin.write("go\n")
    killed.stdin.flush()
    assert killed.stdout.readline() == "building\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=10)
    assert killed.returncode == -signal.SIGKILL
    kind = tmp_path / "store" / "toy"
    assert not [p for p in kind.iterdir() if not p.name.startswith(".")]
    out, error = start(tmp_path, seconds=0).communicate("go\n", timeout=10)
    assert out == "building\nbuilt\nfirst second ['first', 'second']\n", error
    assert len([p for p in kind.iterdir() if p.is_dir()]) == 1, "what the killed builder had begun lies about for ever"
