"""The evaluation's error in a row's interval: what prompts contribute, what seeds share of it, what the table says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from written_runs import write_run

from dpo_lab.compare.comparison import Comparison, compare_runs
from dpo_lab.compare.exports import to_latex, to_rows
from dpo_lab.compare.influence import influence, shared_error, variance
from dpo_lab.compare.intervals import Covers
from dpo_lab.compare.tables import results_table


def judged(root: Path, name: str, values: np.ndarray, seed: int, settings: dict[str, Any] | None = None, **more: Any) -> None:
    """A run whose gold rewards for prompts p0, p1, ... are the values."""
    samples = [
        {"prompt": f"p{i}", "policy": "x", "reference": "y", "reward/policy": float(value), "reward/reference": 0.0}
        for i, value in enumerate(values)
    ]
    summary = {
        "reward/policy": float(values.mean()),
        "positive/policy": float((values > 0).mean()),
        "win_rate": float(((values > 0) + 0.5 * (values == 0)).mean()),
    }
    write_run(root, name, settings, summary | more, seed=seed, samples=samples)


def crossed(draw: np.random.Generator, seeds: int, prompts: int, shares: tuple[float, float, float]) -> np.ndarray:
    """Numbers of mean 0: what a seed, a prompt and a sample add, with these variances."""
    of_seed, of_prompt, of_sample = (math.sqrt(share) for share in shares)
    parts = of_seed * draw.normal(size=(seeds, 1)), of_prompt * draw.normal(size=(1, prompts))
    return np.asarray(sum(parts) + of_sample * draw.normal(size=(seeds, prompts)))


def test_one_run_has_the_interval_of_its_prompts(tmp_path: Path) -> None:
    values = np.array([1.0, -2.0, 4.0, 3.0])
    judged(tmp_path, "a", values, 0)
    (group,) = compare_runs([tmp_path], metrics=["reward/policy"]).groups
    found = group.estimate("reward/policy")
    assert found.se == pytest.approx(values.std(ddof=1) / 2)
    assert (found.high, found.covers) == (pytest.approx(1.5 + stats.t.ppf(0.975, 3) * found.se), Covers.evaluation)
    assert results_table([group], ["reward/policy"])[1][0][-1].startswith("1.500 \u2020 [")


def test_prompts_are_clusters_and_what_is_not_the_metrics_own_values_is_not_taken_for_them() -> None:
    rows = [{"prompt": p, "reward/policy": x} for p, x in (("a", 1.0), ("a", 2.0), ("b", 6.0))]
    found = influence(rows, "reward/policy", {"reward/policy": 3.0})
    assert found is not None
    assert found == pytest.approx({"a": math.sqrt(2) * -3 / 3, "b": math.sqrt(2) * 3 / 3})
    assert influence(rows, "reward/policy", {"reward/policy": 3.1}) is None
    assert influence(rows, "kl", {"kl": 3.0}) is None
    assert influence(rows[:2], "reward/policy", {"reward/policy": 1.5}) is None  # one prompt


@pytest.mark.parametrize("shares", [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.01, 0.5, 0.5), (0.05, 0.0, 1.0)])
def test_the_variance_of_a_mean_over_seeds_is_what_it_is(shares: tuple[float, float, float]) -> None:
    """Seeds and prompts are crossed: sd^2 / n and the covariance over prompts make the whole, neither twice."""
    draw, seeds, prompts, times = np.random.default_rng(0), 4, 40, 300
    means, variances = [], []
    for _ in range(times):
        values = crossed(draw, seeds, prompts, shares)
        found = [
            influence([{"prompt": str(i), "r": x} for i, x in enumerate(row.tolist())], "r", {"r": float(row.mean())})
            for row in values
        ]
        shared = shared_error([each for each in found if each is not None])
        means.append(values.mean())
        variances.append(values.mean(axis=1).var(ddof=1) / seeds + shared.variance)
    expected = shares[0] / seeds + shares[1] / prompts + shares[2] / prompts / seeds
    assert float(np.var(means)) == pytest.approx(expected, rel=0.25)  # 300 times: a standard error of 8 %
    assert float(np.mean(variances)) == pytest.approx(expected, rel=0.25)


def test_without_values_for_each_prompt_the_error_is_bounded_by_what_runs_state(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, f"same{seed}", {"loss": {"beta": 0.1}}, {"kl": 1.0 + seed, "kl_se": 0.5}, seed=seed)
        own = {"loss": {"beta": 0.3}, "evaluation": {"seed": seed}}
        write_run(tmp_path, f"own{seed}", own, {"kl": 1.0 + seed, "kl_se": 0.5}, seed=seed)
    same, own = compare_runs([tmp_path], metrics=["kl"]).groups
    assert same.estimate("kl").se == pytest.approx((1 / 3 + 0.25) ** 0.5)
    assert same.estimate("kl").bound
    assert own.estimate("kl").se == pytest.approx((1 / 3) ** 0.5)  # other prompts for each: their error is in the spread
    (text,) = [line for line in compare_runs([tmp_path], metrics=["kl"]).notes if line.startswith("\u00a7")]
    assert text.endswith("too wide rather than too narrow")


def test_what_prompts_add_to_both_settings_cancels_in_their_difference(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    hard = 3 * draw.normal(size=50)
    for seed in range(4):
        judged(tmp_path, f"a{seed}", hard + 0.1 * draw.normal(size=50), seed, {"loss": {"beta": 0.1}})
        judged(tmp_path, f"b{seed}", hard + 0.5 + 0.1 * draw.normal(size=50), seed, {"loss": {"beta": 0.3}})
    comparison = compare_runs([tmp_path], metrics=["reward/policy"], baseline="0.1")
    (found,) = comparison.contrasts["reward/policy"]
    assert found.difference.se is not None
    assert found.difference.se < 0.05
    assert (comparison.groups[0].estimate("reward/policy").se or 0) > 0.3
    assert found.difference.covers is Covers.both


def test_a_number_that_some_seeds_lack_says_of_how_many_it_is(tmp_path: Path) -> None:
    for seed in range(3):
        top = 2.0 if seed == 0 else 0.2
        rows = [{"step": i, "split": "eval", "kl": kl, "proxy/policy": kl} for i, kl in enumerate((0.0, top / 2, top))]
        write_run(tmp_path, str(seed), summary={"kl": top}, rows=rows, seed=seed)
    comparison = compare_runs([tmp_path], metrics=["proxy/policy"], at_kl=[1.2], max_gap=1.0)
    name = "proxy/policy at KL 1.2"
    (row,) = results_table(comparison.groups, [name])[1]
    assert row == ["3", "1.230 ~ (n=1 of 3)"]
    assert any(line.startswith("n=1 of 3") for line in comparison.notes)
    (record,) = to_rows(comparison)
    assert (record["seeds"], record["n"], record["marks"]) == (3, 1, "~")
    assert r"$1.230^{\sim,n=1}$" in to_latex(comparison)


def test_a_gap_that_is_too_wide_leaves_the_cell_empty_and_is_named(tmp_path: Path) -> None:
    rows = [{"step": i, "split": "eval", "kl": kl, "proxy/policy": kl} for i, kl in enumerate((0.0, 3.0))]
    write_run(tmp_path, "leaper", summary={"kl": 3.0}, rows=rows)
    comparison = compare_runs([tmp_path], metrics=["proxy/policy"], at_kl=[1.0])
    assert results_table(comparison.groups, comparison.metrics)[1] == [["1", ""]]
    (line,) = [line for line in comparison.notes if "at KL 1" in line]
    assert "leaper (0 to 3 nats)" in line
    assert "--max-gap" in line
    assert not any("crosses" in note for note in comparison.notes)
    assert "other empty cells: no run of the row crosses that KL" in compare_runs([tmp_path], at_kl=[1.0, 9.0]).notes


def test_at_a_kl_there_is_what_evaluations_on_the_way_measure(tmp_path: Path) -> None:
    rows = [
        {"step": i, "split": "eval", "kl": 0.4 * i, "proxy/policy": 1.0 + i, "rewards/accuracies": 0.5 + 0.1 * i}
        for i in range(3)
    ]
    summary = {"kl": 0.8, "ideal_share": 0.9, "proxy/policy": 3.0, "eval/rewards/accuracies": 0.7}
    write_run(tmp_path, "run", summary=summary, rows=rows)
    comparison = compare_runs([tmp_path], at_kl=[0.4, 9.0])
    assert comparison.metrics == [f"{m} at KL {kl}" for m in ("proxy/policy", "eval/rewards/accuracies") for kl in ("0.4", "9")]
    (group,) = comparison.groups
    assert [group.estimate(metric).mean for metric in comparison.metrics] == [2.0, None, pytest.approx(0.6), None]
    with pytest.raises(ValueError, match="'ideal_share' is not measured at evaluations on the way"):
        compare_runs([tmp_path], metrics=["ideal_share"], at_kl=[0.4])


def test_a_gap_in_which_several_metrics_are_empty_is_named_once(tmp_path: Path) -> None:
    rows = [{"step": i, "split": "eval", "kl": 3.0 * i, "proxy/policy": 1.0, "win_rate": 0.5} for i in range(2)]
    write_run(tmp_path, "leaper", summary={"kl": 3.0, "proxy/policy": 1.0, "win_rate": 0.5}, rows=rows)
    (line,) = [line for line in compare_runs([tmp_path], at_kl=[1.0]).notes if "at KL 1" in line]
    assert line.startswith("proxy/policy, win_rate at KL 1: empty for runs without an evaluation near it, leaper (0 to 3 nats)")


def extrapolated(root: Path) -> Comparison:
    for seed in range(2):
        summary = {"kl": 1.0, "ideal_share": 0.9 + 0.01 * seed, "ideal_extrapolated": seed == 1}
        write_run(root, str(seed), summary=summary, seed=seed)
    return compare_runs([root], metrics=["ideal_share"])


def test_an_extrapolated_share_is_marked_in_every_table_with_a_footnote(tmp_path: Path) -> None:
    comparison = extrapolated(tmp_path)
    assert "0.905 \u00b1 0.007 *" in results_table(comparison.groups, ["ideal_share"])[1][0][-1]
    assert to_rows(comparison)[0]["marks"].startswith("*")
    assert "^{*" in to_latex(comparison)
    assert any(line.startswith("* beyond the end of the ideal frontier") for line in comparison.notes)


def test_the_share_of_the_ideal_moves_with_reward_reference_and_kl() -> None:
    """Against the change of the share itself when one prompt is left out, to first order."""
    draw, n = np.random.default_rng(0), 400
    kl, reference = 1 + draw.normal(0, 0.5, n), draw.normal(0, 1, n)
    policy = 1.2 + kl + draw.normal(0, 0.5, n)
    frontier = [{"kl": x, "proxy": float(2.5 * x**0.5)} for x in np.linspace(0, 2, 400)]

    def share(keep: np.ndarray) -> float:
        return float((policy[keep].mean() - reference[keep].mean()) / (2.5 * kl[keep].mean() ** 0.5))

    every = np.ones(n, dtype=bool)
    summary = {
        "proxy/policy": float(policy.mean()),
        "proxy/reference": float(reference.mean()),
        "kl": float(kl.mean()),
        "ideal_share": share(every),
        "ideal_frontier": frontier,
        "ideal_share_se": 0.1,
    }
    columns = zip(policy.tolist(), reference.tolist(), kl.tolist(), strict=True)
    rows = [{"prompt": str(i), "proxy/policy": p, "proxy/reference": r, "kl": k} for i, (p, r, k) in enumerate(columns)]
    found = influence(rows, "ideal_share", summary, "pairs")
    assert found is not None
    assert variance(found) == pytest.approx(0.1**2)  # the frontier's own error is the rest
    left_out = [share(every & (np.arange(n) != i)) for i in range(n)]
    jackknife = (n - 1) / n * sum((x - np.mean(left_out)) ** 2 for x in left_out)
    rest = found.pop("the ideal frontier of pairs")
    assert variance(found) == pytest.approx(float(jackknife), rel=0.02)
    assert rest**2 == pytest.approx(0.1**2 - variance(found))
