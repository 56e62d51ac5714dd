"""Comparisons of run directories written by hand: every number here can be checked by eye."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_runs import betas, write_run

from dpo_lab import compare
from dpo_lab.compare.__main__ import main
from dpo_lab.compare.at_kl import at_kl
from dpo_lab.compare.figures.paths import draw_paths
from dpo_lab.compare.grouping import grouped
from dpo_lab.compare.reading import find_runs
from dpo_lab.compare.study_folder import END, START
from dpo_lab.compare.tables import results_table


def beta_run(root: Path, name: str, *, beta: float, seed: int, kl: float, status: str = "done") -> Path:
    settings = {"loss": {"name": "dpo", "beta": beta}, "optimizer": {"lr": 0.1}}
    summary = {"kl": kl, "ideal_frontier": [{"kl": 0, "proxy": 0}]}
    facts = {"command": f"beta {beta} seed {seed}", "git": None}
    return write_run(root, name, settings, summary, seed=seed, status=status, facts=facts)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    beta_run(tmp_path, "a", beta=0.1, seed=0, kl=1.0)
    beta_run(tmp_path, "b", beta=0.1, seed=1, kl=2.0)
    beta_run(tmp_path, "c", beta=0.03, seed=0, kl=5.0)
    beta_run(tmp_path, "d", beta=0.03, seed=1, kl=9.0, status="failed")
    return tmp_path


def test_only_what_differs_is_a_column_and_seeds_are_one_row(sweep: Path) -> None:
    runs, others = find_runs([sweep])
    columns, rows = results_table(grouped(runs).groups, ["kl"])
    assert columns == ["loss.beta", "seeds", "kl"]
    assert rows == [["0.03", "1", "5.000"], ["0.1", "2", "1.500 ± 0.707 ‡ [0.000, 7.853]"]]  # a KL is never below 0
    assert [line.split(": ")[1] for line in others] == ["failed, left out"]


def test_a_run_named_twice_counts_once(sweep: Path) -> None:
    runs, _ = find_runs([sweep, sweep / "a"])
    assert len(runs) == 3


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
    assert "| 0.1 | 2 | 1.500 ± 0.707 ‡ [0.000, 7.853] |" in text
    assert "- ‡ the evaluation's error is not known for each prompt: interval and tests are over seeds only" in text
    assert text.count("a seed varies: batch order") == 1
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
    assert capsys.readouterr().err.startswith("error: there is no finished run to compare: ")


PATH = [{"kl": 0.0, "proxy": 0.0}, {"kl": 1.0, "proxy": 2.0}, {"kl": 0.5, "proxy": 9.0}, {"kl": 4.0, "proxy": 4.0}]


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.0, 0.0), (0.25, 1.0), (1.0, 2.0), (2.25, None), (4.0, 4.0), (4.1, None), (-0.1, None)]
)
def test_a_metric_at_a_kl_is_where_the_path_first_crosses_it(kl: float, expected: float | None) -> None:
    """Between two evaluations on a line in the square root of KL, and not at all across a wide gap."""
    found = at_kl(PATH, "proxy", kl, max_gap=2.0)
    assert found.value == (None if expected is None else pytest.approx(expected))
    assert found.between == (kl == 0.25)
    assert found.gap == ((0.5, 4.0) if kl == 2.25 else None)


@pytest.mark.parametrize(("ends", "kl", "wide"), [((0.0, 0.5), 0.3, False), ((0.0, 0.6), 0.3, True), ((3.0, 5.0), 4.0, False)])
def test_gaps_wider_than_half_a_nat_and_half_the_kl_are_refused(ends: tuple[float, float], kl: float, wide: bool) -> None:
    path = [{"kl": end, "proxy": end} for end in ends]
    assert (at_kl(path, "proxy", kl).gap is not None) is wide
    assert (at_kl(path, "proxy", kl).value is None) is wide
    assert at_kl(path, "proxy", kl, max_gap=3.0).value is not None


@given(st.floats(0.1, 3), st.floats(0.05, 0.9), st.floats(-2, 2))
def test_what_rises_with_the_root_of_kl_is_read_off_exactly(width: float, share: float, factor: float) -> None:
    path = [{"kl": kl, "r": factor * kl**0.5} for kl in (1.0, 1 + width)]
    kl = 1 + share * width
    assert at_kl(path, "r", kl, max_gap=9.0).value == pytest.approx(factor * kl**0.5, abs=1e-9)


def test_the_error_between_two_evaluations_holds_that_of_kl_through_the_slope() -> None:
    path = [{"kl": 1.0, "kl_se": 0.2, "r": 1.0, "r_se": 0.3}, {"kl": 4.0, "kl_se": 0.2, "r": 2.0, "r_se": 0.3}]
    found = at_kl(path, "r", 2.25, max_gap=9.0)
    assert found.error == pytest.approx((0.3**2 + (0.2 / (2 * 1.5)) ** 2) ** 0.5)  # r is the root of KL: its slope 1 / (2 root)
    assert at_kl(path, "r", 1.0).error == 0.3


def test_evaluations_without_the_metric_or_the_kl_are_passed_over() -> None:
    found = at_kl([{"kl": 0.0, "proxy": 1.0}, {"kl": 0.5}, {"proxy": 5.0}, {"kl": 1.0, "proxy": 3.0}], "proxy", 0.25, 1.0)
    assert found.value == pytest.approx(2.0)
    assert at_kl([], "proxy", 0.5).value is None


def test_rows_by_one_setting_at_a_kl_with_a_baseline(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, top in (("a", 2.0), ("b", 4.0), ("c", 3.0)):
        lines = [{"step": 0, "split": "eval", "kl": 0.0, "proxy/policy": 0.0}, {"step": 1, "split": "train", "kl": 9.0}]
        lines.append({"step": 1, "split": "eval", "kl": 2.0, "proxy/policy": top})
        (sweep / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [
        "--by",
        "loss.beta",
        "--metric",
        "proxy/policy",
        "--at-kl",
        "1",
        "--baseline",
        "0.1",
        "--max-gap",
        "2",
        "--save",
        str(sweep / "study"),
    ]
    assert main([str(sweep), *words]) == 0
    table = (sweep / "study" / "README.md").read_text().splitlines()
    assert "| loss.beta | seeds | proxy/policy at KL 1 | difference |" in table
    assert "| 0.1 | 2 | 2.121 ± 1.000 ~‡ [-6.863, 11.106] |  |" in table  # half way in KL is .707 in its root
    assert "| 0.03 | 1 | 2.121 ~ | +0.707 (1 pair) |" in table
    results = [json.loads(line) for line in (sweep / "study" / "results.jsonl").read_text().splitlines()]
    assert [(row["loss.beta"], row["seed"], row["proxy/policy at KL 1"]) for row in results] == [
        (0.1, 0, pytest.approx(2 * 0.5**0.5)),
        (0.1, 1, pytest.approx(4 * 0.5**0.5)),
        (0.03, 0, pytest.approx(3 * 0.5**0.5)),
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "loss.bta"], "Did you mean 'loss.beta'?"),
        (["--by", "loss.beta", "--baseline", "7"], "no row has '7'"),
        (["--by", "loss.beta", "optimizer.lr", "--baseline", "0.1"], "'0.1' is in 2 rows"),
        (["--metric", "lk"], "Did you mean 'kl'?"),
        (["--at-kl", "nan"], "--at-kl must be >= 0"),
        (["--at-kl", "1", "--max-gap", "0"], "--max-gap must be > 0"),
    ],
)
def test_a_setting_or_baseline_that_no_run_has_is_named(
    sweep: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep), *words]) == 2
    assert message in capsys.readouterr().err


def test_runs_of_one_seed_that_differ_elsewhere_are_counted_and_averaged_before_they_are_compared(sweep: Path) -> None:
    beta_run(sweep, "e", beta=0.3, seed=0, kl=4.0)
    runs, _ = find_runs([sweep])
    groups = grouped(runs, by=["loss.name"]).groups
    columns, rows = results_table(groups, ["kl"])
    assert columns == ["loss.name", "seeds", "runs", "kl"]
    assert rows[0][:3] == ["dpo", "2", "4"]
    assert groups[0].values("kl") == [pytest.approx((1 + 5 + 4) / 3), 2.0]


def test_a_kl_that_no_run_reaches_is_an_empty_column_and_not_a_missing_one(sweep: Path) -> None:
    runs, _ = find_runs([sweep])
    columns, rows = results_table(grouped(runs).groups, ["kl at KL 100"])
    assert columns[-1] == "kl at KL 100"
    assert {row[-1] for row in rows} == {""}


def test_the_figure_draws_every_run_and_the_baseline_behind(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        rows = [{"step": i, "split": "eval", "kl": float(i), "proxy/policy": float(i)} for i in range(4)]
        (sweep / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = sweep / "figures" / "paths.png"
    words = ["--by", "loss.beta", "--metric", "proxy/policy", "--at-kl", "1", "--baseline", "0.1", "--figure", str(file)]
    assert main([str(sweep), *words]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    groups = grouped(find_runs([sweep])[0], ["loss.beta"]).groups
    axes = draw_paths(groups, "proxy/policy", groups[1], 1.5).axes
    shown = {panel.get_title(loc="left"): panel.get_lines() for panel in axes if panel.get_visible()}
    assert {name: len(lines) for name, lines in shown.items()} == {"0.03": 3, "0.1": 4}
    assert shown["0.03"][-1].get_xdata().tolist() == [0.0, 1.0]  # up to the KL asked for


def test_a_notebook_gets_rows_and_a_markdown_table(tmp_path: Path) -> None:
    betas(tmp_path, {0.1: [1.0, 2.0, 4.0], 0.3: [2.0, 3.0, 4.0]})
    comparison = compare.compare_runs([str(tmp_path)], by=["loss.beta"], metrics=["kl"], baseline="0.1")
    first, second = compare.to_rows(comparison)
    assert (first["loss.beta"], first["metric"], first["n"], first["mean"]) == (0.1, "kl", 3, pytest.approx(7 / 3))
    assert first["low"] < first["mean"] < first["high"]
    assert (first["difference"], second["difference"], second["pairs"]) == (None, pytest.approx(2 / 3), 3)
    lines = compare.to_markdown(comparison).splitlines()
    assert lines[0] == "| loss.beta | seeds | kl | difference |"
    assert lines[2].startswith("| 0.1 | 3 | 2.333 \u00b1 1.528")
    assert all(hasattr(compare, name) for name in compare.__all__)


def test_comparing_waits_for_no_torch() -> None:
    program = "import sys, dpo_lab.compare.__main__; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
