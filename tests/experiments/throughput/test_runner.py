"""`runner=benchmark`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import runs_of

from dpo_lab.cli.main import run_command
from dpo_lab.compare.study_folder import place_table
from experiments.throughput.benchmark import work

TINY = [
    *("user_modules=[experiments.throughput.benchmark]", "runner=benchmark"),
    *("model.dim=16", "model.depth=1", "model.heads=2", "runner.repeats=2", "runner.memory=false"),
    "runner.cases=[{name: short, prompt: 4, completion: 4, vocab: 16, pairs: 2}, {name: wide, prompt: 4, vocab: 64}]",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, "SECONDS", 0.01)
    return tmp_path


def test_it_leaves_a_table_a_picture_and_every_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*TINY, "runner.save=study"]) == 0
    (run,) = runs_of(folder)
    rows = [json.loads(line) for line in (run / "benchmark.jsonl").read_text().splitlines()]
    contenders = ["cached", "live", "plain", "published_flash", "published"]
    expected = [(case, name) for case in ("short", "wide") for name in contenders]
    assert [(row["case"], row["contender"]) for row in rows] == expected
    assert all(row["s_per_pair"] > 0 and row["tokens_per_s"] > 0 and row["repeats"] == 2 for row in rows)
    assert (run / "figure.png").stat().st_size > 10_000
    assert json.loads((run / "summary.json").read_text())["cases"] == rows
    out = capsys.readouterr().out
    assert all(name in out for name in contenders)
    kept = [json.loads(line) for line in (folder / "study" / "results.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in rows[0]} for row in kept] == rows
    assert all(row["machine"]["threads"] >= 1 and row["machine"]["cpu"] for row in kept)
    assert (folder / "study" / "README.md").read_text().count("| short |") == 5


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["runner.contenders=[cached,plian]", "runner.baseline=cached"], "Did you mean 'plain'?"),
        (["runner.baseline=nobody"], "runner.baseline"),
        (["runner.repeats=0"], "runner.repeats"),
        (["runner.cases=[]"], "runner.cases"),
        (["runner.cases=[{pairs: 0}]"], "pairs must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert run_command([*TINY, *words]) == 2
    assert complaint in capsys.readouterr().err
    assert not runs_of(folder)


def test_a_study_without_a_place_for_the_table_is_refused_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "README.md").write_text("# No place\n")
    assert run_command([*TINY, "runner.save=."]) == 2
    assert "no place for the table" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "# No place\n"


def test_a_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    place_table(tmp_path, ["a"], [["1"]])
    before = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(f"# Question\n{before}\nVerdict\n")
    place_table(tmp_path, ["a", "b"], [["2", "3"]])
    text = (tmp_path / "README.md").read_text()
    assert "| 2 | 3 |" in text
    assert "| 1 |" not in text
    assert text.startswith("# Question\n")
    assert text.endswith("\nVerdict\n")
