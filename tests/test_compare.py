"""Comparisons of run directories written by hand: every number here can be checked by eye."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpo_lab.compare import END, START, find_runs, grouped, main, rows_of, spread


def write_run(root: Path, name: str, *, beta: float, seed: int, kl: float, status: str = "done") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": status, "seed": seed, "command": f"beta {beta} seed {seed}"}))
    (folder / "config.yaml").write_text(f"seed: {seed}\nloss: {{name: dpo, beta: {beta}}}\noptimizer: {{lr: 0.1}}\n")
    (folder / "summary.json").write_text(json.dumps({"kl": kl, "ideal_frontier": [{"kl": 0, "proxy": 0}]}))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    write_run(tmp_path, "a", beta=0.1, seed=0, kl=1.0)
    write_run(tmp_path, "b", beta=0.1, seed=1, kl=2.0)
    write_run(tmp_path, "c", beta=0.03, seed=0, kl=5.0)
    write_run(tmp_path, "d", beta=0.03, seed=1, kl=9.0, status="failed")
    return tmp_path


def test_only_what_differs_is_a_column_and_seeds_are_one_row(sweep: Path) -> None:
    runs, others = find_runs([sweep])
    columns, rows = rows_of(grouped(runs))
    assert columns == ["loss.beta", "seeds", "kl"]
    assert rows == [["0.03", "1", "5.000"], ["0.1", "2", "1.500 ± 0.707"]]
    assert [line.split(": ")[1] for line in others] == ["failed, left out"]


def test_a_run_named_twice_counts_once(sweep: Path) -> None:
    runs, _ = find_runs([sweep, sweep / "a"])
    assert len(runs) == 3


def test_one_value_has_no_spread() -> None:
    assert (spread([]), spread([2.0]), spread([1.0, 3.0])) == ("", "2.000", "2.000 ± 1.414")


def test_saving_keeps_the_prose_around_the_table_and_every_run(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = sweep / "study"
    study.mkdir()
    (study / "README.md").write_text(f"before\n{START}\nold\n{END}\nafter\n")
    assert main([str(sweep), "--save", str(study)]) == 0
    assert main([str(sweep), "--save", str(study)]) == 0
    text = (study / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| 0.1 | 2 | 1.500 ± 0.707 |" in text
    results = [json.loads(line) for line in (study / "results.jsonl").read_text().splitlines()]
    assert [row["kl"] for row in results] == [1.0, 2.0, 5.0]
    assert "ideal_frontier" not in results[0]
    assert "3 runs" in capsys.readouterr().out


def test_a_readme_without_a_place_for_the_table_is_left_alone(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = sweep / "study"
    study.mkdir()
    (study / "README.md").write_text("prose")
    assert main([str(sweep), "--save", str(study)]) == 2
    assert (study / "README.md").read_text() == "prose"
    assert "has no place for the table" in capsys.readouterr().err


def test_nothing_to_compare_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: there is no finished run in ")
