"""What the benchmark measures is what it says."""

from __future__ import annotations

import pytest
import torch
from greedy_contender import MEGABYTES

from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.scoring.layouts import ForwardCost
from dpo_lab.training.compute import Compute
from dpo_lab.training.settings import TrainerSettings
from experiments.throughput.benchmark import Case, work
from experiments.throughput.benchmark.memory import in_cold_process
from experiments.throughput.benchmark.prepared import Terms
from experiments.throughput.benchmark.results import row_of, table_of
from experiments.throughput.benchmark.timing import Timed, in_turns
from experiments.throughput.benchmark.work import peak_of_matmul, useful_operations

CASE = Case("small", prompt=6, completion=4, vocab=24, pairs=3)


def test_steps_take_turns_and_the_first_round_does_not_count() -> None:
    said: list[str] = []
    steps = {name: lambda name=name: said.append(name) for name in ("a", "b", "c")}  # type: ignore[misc]
    timed = in_turns(steps, 3, torch.device("cpu"), before=lambda name: said.append(f"before {name}"))
    assert [word for word in said if not word.startswith("before")] == list("abcbcacababc")
    assert said[::2] == [f"before {name}" for name in said[1::2]]
    assert all(len(one.seconds) == len(one.cpu_seconds) == 3 for one in timed.values())


def test_a_speedup_is_the_median_of_the_rounds_ratios() -> None:
    ours, theirs = Timed(seconds=[1.0, 1.0, 4.0]), Timed(seconds=[2.0, 3.0, 4.0])
    assert ours.speedup_over(theirs) == 2.0
    assert theirs.speedup_over(ours) == 0.5
    assert ours.median == 1.0


def test_useful_operations_are_those_of_a_loop_over_tokens() -> None:
    batch, work, head = CASE.draw(seed=2), ForwardCost(per_token=7, per_pair=3), 11
    expected = 0
    for row in range(len(batch)):
        prompt = int(batch.prompt_mask[row].sum())
        for t in range(prompt):
            expected += 7 + 3 * (t + 1)
        for candidate in range(2):
            length = int(batch.mask[candidate, row].sum())
            for t in range(length - 1):  # the last token is not read
                expected += 7 + 3 * (prompt + t + 1)
            expected += 11 * length
    assert useful_operations(batch, work, head) == 2 * 3 * expected


def test_a_row_holds_times_of_a_pair_and_ratios() -> None:
    batch = CASE.draw(seed=2)
    timed = {"ours": Timed([0.3, 0.3], [0.6, 0.6]), "theirs": Timed([0.6, 0.9], [0.6, 0.9])}
    row = row_of(CASE, batch, "ours", timed, share_of_peak=0.15, memory=5_000_000)
    tokens = int(batch.prompt_mask.sum()) + int(batch.mask.sum())  # a prompt once for both its completions
    assert row["s_per_pair"] == pytest.approx(0.1)
    assert row["cpu_s_per_pair"] == pytest.approx(0.2)
    assert row["tokens_per_s"] == pytest.approx(tokens / 0.3)
    assert row["share_of_peak"] == pytest.approx(0.5)
    assert row["speedup_over"] == {"theirs": 2.5}
    columns, (line,) = table_of([row], baseline="theirs")
    assert dict(zip(columns, line, strict=True)) == {
        "case": "small",
        "contender": "ours",
        "ms/pair": "100",
        "speedup": "2.50",
        "tokens/s": f"{tokens / 0.3:,.0f}",
        "of peak": "50%",
        "MB": "5",
    }


def test_a_matrix_product_runs_at_some_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "SECONDS", 0.01)
    assert 1e8 < peak_of_matmul(Compute(device="cpu")) < 1e14


@pytest.mark.slow
def test_the_memory_of_a_step_is_what_it_holds_at_once() -> None:
    terms = Terms(TransformerSpec(dim=16, depth=1, heads=2), Compute(device="cpu"), beta=0.1, trainer=TrainerSettings(), seed=0)
    found = in_cold_process(terms, "greedy", CASE, ["greedy_contender"])
    assert found is None or 0.95 * MEGABYTES < found / 1e6 < 1.2 * MEGABYTES
