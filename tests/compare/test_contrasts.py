"""Settings against a baseline: pairs are seeds, and the sentences say no more than the numbers do."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from written_runs import betas, write_run

from dpo_lab.compare.__main__ import main
from dpo_lab.compare.comparison import Comparison, compare_runs
from dpo_lab.compare.contrasts import verdict
from dpo_lab.compare.exports import escaped, to_latex
from dpo_lab.compare.reading import LOADER
from dpo_lab.compare.settings import distinguishing


def sweep(root: Path, effects: dict[float, list[float]]) -> Comparison:
    return compare_runs([betas(root, effects)], metrics=["kl"], baseline="0.1")


def test_pairs_are_seeds_and_not_places_in_a_list(tmp_path: Path) -> None:
    betas(tmp_path, {0.1: [1.0, 2.0, 3.0]})
    for seed, value in ((2, 4.0), (0, 2.0), (7, 99.0)):
        write_run(tmp_path, f"other-{seed}", {"loss": {"name": "dpo", "beta": 0.3}}, {"kl": value}, seed=seed)
    (found,) = compare_runs([tmp_path], metrics=["kl"], baseline="0.1").contrasts["kl"]
    assert (found.difference.n, found.difference.mean, found.difference.sd) == (2, 1.0, 0.0)
    assert (found.p, found.p_t) == (0.5, None)


def test_three_seeds_are_told_what_they_cannot_show(tmp_path: Path) -> None:
    comparison = sweep(tmp_path, {0.1: [1.0, 2.0, 3.0], 0.3: [2.0, 3.01, 4.02], 0.5: [1.5, 1.7, 3.1]})
    cannot, normal, rest = comparison.verdicts["kl"]
    assert "smallest p of the exact sign-flip test (two-sided) is 0.25, times 2 comparisons (Holm)" in cannot
    assert "it would take 7 seeds" in cannot
    assert normal.startswith("Distinguishable only if differences between seeds are normal")
    assert normal.endswith("above it 0.3.")
    assert rest.startswith("Not distinguishable from 0.1: 0.5. That is not the same as equal")


def test_seven_seeds_can_show_two_effects(tmp_path: Path) -> None:
    base = [float(seed) for seed in range(7)]
    effects = {0.1: base, 0.3: [x + 1 + 0.01 * x for x in base], 0.5: [x - 2 + 0.02 * x * x for x in base]}
    (sure,) = sweep(tmp_path, effects).verdicts["kl"]
    assert sure == "Distinguishable from 0.1 (exact sign-flip test, Holm's p at most .05): above it 0.3; below it 0.5."


def test_of_too_many_comparisons_no_number_of_seeds_is_promised_to_be_enough(tmp_path: Path) -> None:
    comparison = sweep(tmp_path, {0.1: [1.0, 1.1], 0.2: [2.0, 2.2]})
    (found,) = comparison.contrasts["kl"]
    for many, ending in ((1, "it would take 6 seeds."), (400, "it would take 13 seeds."), (501, "too many for it.")):
        assert verdict([found] * many, "0.1")[0].endswith(ending)


def test_six_seeds_are_enough_for_one_comparison_and_not_for_two(tmp_path: Path) -> None:
    base, lucky = [0.0] * 6, [1.0, 1.0, 1.0, 1.0, 1.0, 30.0]  # all above, by amounts that no t test believes
    (sure,) = sweep(tmp_path / "one", {0.1: base, 0.3: lucky}).verdicts["kl"]
    assert sure.startswith("Distinguishable from 0.1 (exact sign-flip test")
    two = sweep(tmp_path / "two", {0.1: base, 0.3: lucky, 0.5: lucky})
    assert [each.p for each in two.contrasts["kl"]] == [1 / 32, 1 / 32]
    cannot, rest = two.verdicts["kl"]
    assert cannot.startswith("With 6 seeds the smallest p")
    assert rest.startswith("Not distinguishable from 0.1: 0.3, 0.5.")
    assert "mathbf" not in to_latex(two)


def test_what_lies_inside_a_run_is_no_run(tmp_path: Path) -> None:
    write_run(tmp_path, "outer")
    write_run(tmp_path / "outer" / "checkpoints", "inner")
    assert [run.path.name for run in compare_runs([tmp_path], metrics=["kl"]).runs] == ["outer"]


def test_numbers_that_are_not_finite_are_no_numbers(tmp_path: Path) -> None:
    rows = [
        {"step": s, "split": "eval", "kl": kl, "proxy/policy": r} for s, (kl, r) in enumerate([(0.81, 1), (1, None), (1.21, 3)])
    ]
    write_run(tmp_path, "a", summary={"kl": None, "proxy/policy": 2.0}, rows=rows)
    rows[-1]["entropy"] = None  # read as nan
    write_run(tmp_path, "b", summary={"proxy/policy": 2.0}, rows=rows)
    run, other = compare_runs([tmp_path], metrics=["proxy/policy"]).runs
    assert other.value("entropy") is None
    assert (run.value("kl"), run.value("proxy/policy at KL 1"), run.value("none")) == (None, pytest.approx(2.0), None)


def test_one_seed_says_nothing(tmp_path: Path) -> None:
    (line,) = sweep(tmp_path, {0.1: [1.0], 0.3: [2.0]}).verdicts["kl"]
    assert line.startswith("One seed in common")


def test_csv_json_and_latex_hold_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    betas(tmp_path, {0.1: [1.0, 2.0, 3.0], 0.3: [2.0, 3.5, 4.0]})
    out = tmp_path / "out"
    words = [str(tmp_path), "--metric", "kl", "proxy/policy", "--baseline", "0.1"]
    assert main([*words, "--json", str(out / "a.json"), "--latex", str(out / "a.tex"), "--csv", "-"]) == 0
    streams = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(streams.out)))  # stdout holds the table and nothing else
    read = json.loads((out / "a.json").read_text())
    assert [row["metric"] for row in rows] == ["kl", "proxy/policy"] * 2
    for row, record in zip(rows, read["results"], strict=True):
        assert set(row) == set(record)
        for key, value in record.items():
            same = float(row[key]) == value if isinstance(value, int | float) else row[key] == (value or "")
            assert same, key
    assert (rows[2]["pairs"], rows[2]["p"], rows[0]["p"]) == ("3", "0.25", "")
    assert float(rows[2]["difference"]) == pytest.approx(3.5 / 3)
    assert [run["kl"] for run in read["runs"]] == [1.0, 2.0, 3.0, 2.0, 3.5, 4.0]
    assert read["settings"] == ["loss.beta: 0.1, 0.3"]
    assert r"0.1 & 3 & $2.000\;[0.000, 4.484]^{\ddagger}$ & $2.000 \pm 1.242^{\ddagger}$ \\" in (out / "a.tex").read_text()
    assert "smallest p" in streams.err


def test_latex_marks_what_survives_the_correction_and_escapes_names(tmp_path: Path) -> None:
    base = [float(seed) for seed in range(7)]
    text = to_latex(sweep(tmp_path, {0.1: base, 0.3: [x + 1 + 0.01 * x for x in base]}))
    assert r"\mathbf{4.030}" in text.splitlines()[-3]
    assert "mathbf" not in text.splitlines()[-4]
    assert escaped(r"a_b & 5% \ {x}") == r"a\_b \& 5\% \textbackslash{} \{x\}"


def test_two_outputs_do_not_fit_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--csv", "-", "--json", "-"]) == 2
    assert "asked for csv and json" in capsys.readouterr().err


def test_a_few_settings_tell_all_apart_and_the_rest_is_said_to_move_along(tmp_path: Path) -> None:
    for name, beta in (("dpo", 0.1), ("ipo", 0.5)):
        write_run(tmp_path, name, {"loss": {"name": name, "beta": beta, "x": 1}, "candidates": {"seed": 0}})
        write_run(tmp_path, f"{name}1", {"loss": {"name": name, "beta": beta, "x": 1}, "candidates": {"seed": 1}}, seed=1)
    comparison = compare_runs([tmp_path], metrics=["kl"])
    assert [group.label for group in comparison.groups] == ["dpo", "ipo"]
    assert comparison.varied_settings == ["loss.name: dpo, ipo", "also different: loss.beta"]
    grid = [{"a": a, "b": b, "c": a} for a in (1, 2) for b in (1, 2)]
    assert distinguishing(grid, ["a", "b", "c"]) == ["a", "b"]


def test_every_run_that_is_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    betas(tmp_path, {0.1: [1.0, 2.0], 0.3: [1.0]})
    write_run(tmp_path, "torn").joinpath("summary.json").write_text("{")
    write_run(tmp_path, "badyaml").joinpath("config.yaml").write_text("a: [")
    write_run(tmp_path, "noconfig").joinpath("config.yaml").unlink()
    write_run(tmp_path, "empty", summary={})
    write_run(tmp_path, "odd", {"runner": {"name": "evaluate"}})
    write_run(tmp_path, "stopped", status="preempted")
    write_run(tmp_path, "half").joinpath("metrics.jsonl").write_text("3\n")
    (tmp_path / "notjson").mkdir()
    (tmp_path / "notjson" / "run.json").write_text("[]")
    comparison = compare_runs([tmp_path, tmp_path / "none"], metrics=["kl"])
    assert len(comparison.runs) == 3
    reasons = {Path(line.split(": ")[0]).name: line.split(": ", 1)[1] for line in comparison.left_out}
    assert reasons.keys() == {"torn", "badyaml", "noconfig", "empty", "odd", "stopped", "half", "notjson", "none"}
    assert reasons["stopped"] == "preempted, left out"
    assert reasons["odd"] == "runner=evaluate, those of None are compared, left out"
    assert "no number to compare" in reasons["empty"]


def test_rewards_of_different_data_are_warned_of(tmp_path: Path) -> None:
    for name in ("imdb", "synthetic"):
        write_run(tmp_path, name, {"data": {"name": name}})
    (remark,) = compare_runs([tmp_path], metrics=["kl"]).warnings
    assert remark.startswith("the runs differ in data.name")
    facts = tmp_path / "imdb" / "run.json"
    facts.write_text(facts.read_text().replace("abc", "def"))
    assert compare_runs([tmp_path], metrics=["kl"]).warnings[1] == "the rows are of 2 versions of the code: abc, def"


SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=4)
CONFIGS = st.dictionaries(st.text("abc", min_size=1), SCALARS | st.lists(SCALARS, max_size=2), max_size=4)


@given(CONFIGS)
def test_a_config_is_read_as_omegaconf_wrote_it(config: dict[str, object]) -> None:
    assume(not any("${" in value for value in config.values() if isinstance(value, str)))
    text = OmegaConf.to_yaml(OmegaConf.create(config))
    assert yaml.load(text, Loader=LOADER) == OmegaConf.to_container(OmegaConf.create(text))
