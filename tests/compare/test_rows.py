"""Which runs make one row: settings that change no number never part them, code, versions and stages always do, with a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from written_runs import write_run

from dpo_lab.artifacts.fingerprint import HOUSEKEEPING, ROUNDING
from dpo_lab.compare.__main__ import main
from dpo_lab.compare.comparison import Comparison, compare_runs
from dpo_lab.compare.footnotes import UPPER, marks
from dpo_lab.compare.intervals import Covers
from dpo_lab.compare.provenance import conflicts

MADE = {"base": "b1", "tokenizer": "t1", "pairs": "p1"}
CODE = {"dpo_lab.losses.dpo": "1111", "dpo_lab.training.trainer": "2222"}


def nested(dotted: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in dotted.items():
        *above, last = key.split(".")
        place = found
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return found


def two(root: Path, first: dict[str, Any], second: dict[str, Any], settings: dict[str, Any] | None = None) -> Comparison:
    """Two seeds of the same settings, with these facts."""
    for seed, facts in enumerate((first, second)):
        write_run(root, f"run{seed}", settings, {"kl": 1.0 + seed}, seed=seed, facts=facts)
    return compare_runs([root], metrics=["kl"])


@pytest.mark.parametrize("setting", sorted(HOUSEKEEPING | ROUNDING | {"evaluation.seed", "vary"}))
def test_settings_that_change_no_number_and_seeds_never_part_runs(tmp_path: Path, setting: str) -> None:
    for seed, value in enumerate(("one", "other")):
        write_run(tmp_path, str(seed), nested({setting: value, "loss.beta": 0.1}), seed=seed)
    (group,) = compare_runs([tmp_path], metrics=["kl"]).groups
    assert len(group.by_seeds) == 2


def test_a_setting_that_changes_numbers_parts_them(tmp_path: Path) -> None:
    for seed, value in enumerate(("fp32", "bf16")):
        write_run(tmp_path, str(seed), {"compute": {"precision": value}}, seed=seed)
    comparison = compare_runs([tmp_path], metrics=["kl"])
    assert [group.label for group in comparison.groups] == ["bf16", "fp32"]
    assert comparison.warnings == []


def test_any_setting_can_be_asked_for(tmp_path: Path) -> None:
    for seed in range(4):
        settings = {"data": {"seed": seed % 2}, "compute": {"threads": seed // 2}}
        write_run(tmp_path, str(seed), settings, seed=seed)
    for setting in ("data.seed", "compute.threads"):
        comparison = compare_runs([tmp_path], by=[setting], metrics=["kl"])
        assert [(group.settings, len(group.runs)) for group in comparison.groups] == [({setting: 0}, 2), ({setting: 1}, 2)]
        assert comparison.warnings == []


@pytest.mark.parametrize(
    ("one", "other", "label", "word"),
    [
        ({"code": CODE}, {"code": {**CODE, "dpo_lab.losses.dpo": "3333"}}, "code ", "code (losses.dpo)"),
        ({"code": "1a2b3c"}, {"code": "4d5e6f"}, "code 1a2b", "code (the package)"),
        ({"code": CODE}, {"code": "4d5e6f", "git": {"sha": "def"}}, "git abc", "commits def and abc"),
        ({"code": CODE}, {"code": "4d5e6f"}, "code ", "code (recorded as one digest and module by module)"),
        ({}, {"git": {"sha": "abc", "dirty": True}}, "git abc", "commits abc with changes and abc"),
        (
            {"versions": {"torch": "2.12", "a": "1"}},
            {"versions": {"torch": "2.13", "b": "2"}},
            "torch 2.12",
            "versions of torch",
        ),
        ({"made_from": MADE}, {"made_from": {**MADE, "base": "b2"}}, "base b1", "base policies under the same settings"),
        ({"made_from": MADE}, {"made_from": {**MADE, "pairs": "p2"}}, "pairs p1", "pairs under the same settings"),
    ],
)
def test_a_row_is_split_by_what_it_was_made_with_and_says_so(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], label: str, word: str
) -> None:
    comparison = two(tmp_path, one, other)
    assert len(comparison.groups) == 2
    assert comparison.groups[0].label.startswith(label)
    assert comparison.groups[0].label != comparison.groups[1].label
    (split, *_) = comparison.warnings
    assert word in split
    assert "run0" in split
    assert "run1" in split


def test_modules_and_packages_that_only_one_run_has_part_nothing(tmp_path: Path) -> None:
    more = {"code": {**CODE, "my_lab.losses": "9"}, "versions": {"torch": "2.13", "sklearn": "1"}}
    comparison = two(tmp_path, {"code": CODE, "versions": {"torch": "2.13"}}, more)
    assert len(comparison.groups) == 1
    assert comparison.warnings == []


@pytest.mark.parametrize(
    ("seed", "made", "rows"),
    [
        ("base", {"base": "b2", "pairs": "p2"}, 1),
        ("candidates", {"pairs": "p2"}, 1),
        ("data", {"base": "b2", "tokenizer": "t2", "pairs": "p2"}, 1),
        ("candidates", {"base": "b2", "pairs": "p2"}, 2),  # a seed of candidates does not make another base
        ("evaluation", {"pairs": "p2"}, 2),
    ],
)
def test_a_stage_may_differ_where_its_own_seed_does(tmp_path: Path, seed: str, made: dict[str, str], rows: int) -> None:
    for number, digests in enumerate((MADE, {**MADE, **made})):
        write_run(tmp_path, str(number), {seed: {"seed": number}}, seed=number, facts={"made_from": digests})
    assert len(compare_runs([tmp_path], metrics=["kl"]).groups) == rows


def test_what_split_rows_share_is_told_from_the_rest(tmp_path: Path) -> None:
    for beta in (0.1, 0.3):
        for seed in range(3):
            code = {**CODE, "dpo_lab.training.trainer": "new" if seed == 2 and beta == 0.1 else "2222"}
            write_run(tmp_path, f"{beta}-{seed}", {"loss": {"beta": beta}}, seed=seed, facts={"code": code})
    comparison = compare_runs([tmp_path], metrics=["kl"], baseline="0.3")
    assert [len(group.runs) for group in comparison.groups] == [2, 1, 3]
    assert list(comparison.groups[0].settings) == ["loss.beta", "made with"]
    assert comparison.groups[2].label == "0.3"
    split, between = comparison.warnings
    assert split.startswith("0.1: split, for its runs differ in code (training.trainer)")
    assert between == "the rows differ in the code of training.trainer"


def test_uncommitted_code_that_is_not_recorded_is_named(tmp_path: Path) -> None:
    dirty = {"git": {"sha": "abc", "dirty": True}}
    comparison = two(tmp_path, dirty, dirty)
    assert len(comparison.groups) == 1
    (warning,) = comparison.warnings
    assert warning == "of uncommitted code that is not recorded, so that it may differ from run to run: run0, run1"
    recorded = two(tmp_path / "recorded", {**dirty, "code": CODE}, {**dirty, "code": CODE})
    assert recorded.warnings == []


def test_artifacts_of_other_code_that_were_accepted_are_named(tmp_path: Path) -> None:
    comparison = two(tmp_path, {"accepted": {"base": ["k1"]}}, {"accepted": {}})
    assert comparison.warnings == ["with artifacts of other code, accepted by store.accept (base): run0"]


def test_runs_whose_code_changed_on_the_way_are_named(tmp_path: Path) -> None:
    comparison = two(tmp_path, {"changed_on_the_way": ["trainer.py changed"]}, {})
    assert comparison.warnings == ["continued under other code or settings than they began with: run0"]


def test_conflicts_are_symmetric(tmp_path: Path) -> None:
    comparison = two(tmp_path, {"code": CODE, "made_from": MADE}, {"code": "x", "made_from": {**MADE, "tokenizer": "t2"}})
    a, b = comparison.runs
    assert conflicts(a, b).keys() == conflicts(b, a).keys() == {"code", "tokenizer"}
    assert conflicts(a, a) == {}


def test_pairs_are_runs_whose_seeds_all_agree(tmp_path: Path) -> None:
    for beta in (0.1, 0.3):
        for seed, base in ((0, 0), (0, 1), (1, 1)):
            settings = {"loss": {"beta": beta}, "base": {"seed": base + (5 if beta == 0.3 and seed else 0)}}
            write_run(tmp_path, f"{beta}-{seed}-{base}", settings, {"kl": 10 * seed + base + beta}, seed=seed)
    comparison = compare_runs([tmp_path], metrics=["kl"], baseline="0.1")
    assert [len(group.by_seeds) for group in comparison.groups] == [3, 3]
    (found,) = comparison.contrasts["kl"]
    assert (found.difference.n, found.difference.mean) == (2, pytest.approx(0.2))


def test_runs_of_another_kind_stay_out_where_there_are_preference_runs(tmp_path: Path) -> None:
    write_run(tmp_path, "trained", {"runner": {"name": "preference"}})
    for number in range(2):
        write_run(tmp_path, f"sampled{number}", {"runner": {"name": "sample"}}, {"num_samples": 4})
    comparison = compare_runs([tmp_path])
    assert [run.path.name for run in comparison.runs] == ["trained"]
    assert all("runner=sample, those of preference are compared, left out" in line for line in comparison.left_out)


@pytest.mark.parametrize(
    ("varied", "line"),
    [
        ({}, "a seed varies: batch order and the policy's samples; shared by the runs of a row: data, base policy, "),
        (
            {"candidates.seed": 1},
            "a seed varies: batch order and the policy's samples, candidates; shared by the runs of a row: ",
        ),
        (
            {"data.seed": 1, "base.seed": 1, "candidates.seed": 1, "evaluation.seed": 1},
            "a seed varies: batch order and the policy's samples, data, base policy, candidates, evaluation prompts",
        ),
    ],
)
def test_what_a_seed_varies_is_said(tmp_path: Path, varied: dict[str, int], line: str) -> None:
    seeds = dict.fromkeys(("data.seed", "base.seed", "candidates.seed", "evaluation.seed"), 0)
    for seed, own in enumerate((seeds, {**seeds, **varied})):
        write_run(tmp_path, str(seed), nested(own), seed=seed)
    assert compare_runs([tmp_path], metrics=["kl"]).notes[-1].startswith(line)


def test_a_seed_that_is_no_stages_is_named_by_its_setting(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, str(seed), {"model": {"lora": {"seed": seed}}, "my": {"seed": 0}}, seed=seed)
    (line,) = (note for note in compare_runs([tmp_path], metrics=["kl"]).notes if note.startswith("a seed varies"))
    assert "samples, model.lora.seed; shared" in line
    assert "my.seed" not in line


def test_runs_of_before_every_metric_had_an_error_are_compared_and_said_to_be_so(tmp_path: Path) -> None:
    samples = [
        {"prompt": prompt, "policy": "x", "reference": "y", "reward/policy": reward, "reward/reference": 0.5}
        for prompt, reward in (("a", 1.0), ("b", 0.0), ("c", 1.5))
    ]
    best = [{"n": n, "kl": 0.2 * n, "proxy": 1.0 + n, "reward": 1.0 + n, "positive": 0.9} for n in (2, 4)]
    frontier = [{"kl": 0.1 * k, "proxy": 1.0 + 0.1 * k} for k in range(5)]
    summary = {"kl_se": 0.1, "reward/policy": 2.5 / 3, "win_rate": 2 / 3, "ideal_share": 0.9, "proxy/policy": 1.2}
    rows = [
        {"step": step, "split": "eval", "kl": 0.4 * step, "kl_se": 0.1, "proxy/policy": 1 + 0.1 * step} for step in range(3)
    ]
    for seed in range(2):
        found = {**summary, "kl": 1.0 + seed, "best_of_n": best, "ideal_frontier": frontier, "eval/rewards/accuracies": 0.9}
        write_run(tmp_path, f"run{seed}", None, found, seed=seed, rows=rows, samples=samples, facts={"code": "1a2b3c"})
    comparison = compare_runs([tmp_path], metrics=["kl", "reward/policy", "win_rate", "ideal_share", "proxy/policy"])
    (group,) = comparison.groups
    marked = {metric: marks(group, metric) for metric in comparison.metrics}
    assert marked == {"kl": UPPER, "reward/policy": "", "win_rate": "", "ideal_share": "", "proxy/policy": ""}
    assert group.estimate("reward/policy").covers is Covers.both
    assert group.estimate("ideal_share").low is None  # equal in both, and nothing says how far it varies
    (remark,) = comparison.warnings
    assert remark.startswith("of an older version of this package: no standard errors but that of KL")
    assert remark.endswith("run0, run1")
    assert any(note.startswith("a seed varies: batch order; shared") for note in comparison.notes)
    assert marks(compare_runs([tmp_path], at_kl=[0.4], metrics=["proxy/policy"]).groups[0], "proxy/policy at KL 0.4") == ""
    page = tmp_path / "page.html"
    assert main([str(tmp_path), "--html", str(page), "--csv", str(tmp_path / "results.csv")]) == 0
    assert "of an older version of this package" in page.read_text()
    assert any(note.startswith("without brackets: ") for note in comparison.notes)


def test_a_setting_that_an_older_version_did_not_know_is_no_difference_of_settings(tmp_path: Path) -> None:
    for seed in range(2):
        for beta in (0.1, 0.3):
            own = {"loss": {"beta": beta}}
            write_run(tmp_path, f"old{seed}{beta}", own, seed=seed, facts={"code": "1a2b3c"})
            new = {**own, "accept": [], "trainer": {"policy": "last"}}
            write_run(tmp_path, f"new{seed}{beta}", new, seed=seed, facts={"code": CODE})
    comparison = compare_runs([tmp_path], metrics=["kl"])
    assert [list(group.settings) for group in comparison.groups] == [["loss.beta", "made with"]] * 4
    assert {len(group.runs) for group in comparison.groups} == {2}
    write_run(tmp_path, "other", {"loss": {"beta": 0.1}, "trainer": {"policy": "best"}}, facts={"code": CODE})
    assert "trainer.policy" in compare_runs([tmp_path], metrics=["kl"]).groups[0].settings


def test_what_only_evaluations_on_the_way_measure_is_that_of_the_step_that_was_kept(tmp_path: Path) -> None:
    rows = [{"step": step, "split": "eval", "kl": 0.1, "displacement/chosen": -float(step)} for step in (0, 10, 20)]
    write_run(tmp_path, "best", summary={"kl": 0.1, "step": 10}, rows=rows)
    (run,) = compare_runs([tmp_path], metrics=["displacement/chosen"]).runs
    assert run.value("displacement/chosen") == -10.0


def test_runs_that_the_clock_stopped_are_named(tmp_path: Path) -> None:
    comparison = two(tmp_path, {"bounded_by": "trainer.max_minutes"}, {})
    assert comparison.warnings == ["stopped by the clock, so that their length is that of their machine: run0"]
