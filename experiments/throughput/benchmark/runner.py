"""How fast a training step is, beside others."""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dpo_lab.artifacts.json_files import to_line, write_atomically
from dpo_lab.artifacts.provenance import hardware, versions
from dpo_lab.compare.study_folder import check_folder, place_table
from dpo_lab.models.transformer import TransformerPolicy, TransformerSpec
from dpo_lab.pipeline.base import RUNNERS, RunnerSpec
from dpo_lab.pipeline.context import Context
from experiments.throughput.benchmark.base import CONTENDERS
from experiments.throughput.benchmark.cases import Case
from experiments.throughput.benchmark.figure import draw
from experiments.throughput.benchmark.memory import in_cold_process, of_step
from experiments.throughput.benchmark.prepared import Terms, prepared
from experiments.throughput.benchmark.results import row_of, table_of
from experiments.throughput.benchmark.timing import in_turns
from experiments.throughput.benchmark.work import peak_of_matmul, useful_operations

if TYPE_CHECKING:
    from dpo_lab.pipeline.study import Study

RESULTS = "benchmark.jsonl"
GRID = (
    Case("prompt-heavy", prompt=384, completion=128),
    Case("balanced", prompt=256, completion=256),
    Case("completion-heavy", prompt=128, completion=384),
    Case("long", prompt=768, completion=256, pairs=4),
    Case("wide-prompt", prompt=384, completion=128, vocab=32000, pairs=4),
    Case("wide", prompt=256, completion=256, vocab=32000, pairs=4),
    Case("widest", prompt=256, completion=256, vocab=50257, pairs=4),
)


@RUNNERS.register
@dataclass
class BenchmarkRunner(RunnerSpec):
    """Times the gradient of DPO on one batch: several ways take turns in one process, and medians are compared."""

    name: str = "benchmark"
    contenders: list[str] = field(default_factory=lambda: ["cached", "live", "plain", "published_flash", "published"])
    """cached, live: the lab's own step. plain: four forward passes. published, published_flash: x_transformers.dpo."""
    baseline: str = "published_flash"
    """The contender whose speed is 1 in the table."""
    cases: list[Case] = field(default_factory=lambda: list(GRID))
    """The batches to time on; by default a grid of lengths and vocabularies."""
    repeats: int = 5
    """Rounds that count."""
    memory: bool = True
    """Also measure the memory of a step: on a CPU in a process of its own for each contender and case."""
    save: str | None = None
    """A folder to keep the results in: results.jsonl, the figure, and the table in its README.md."""

    trains: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...] | None] = ("model", "trainer", "loss.beta", "seed")

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"runner.repeats must be at least 1, got {self.repeats}")
        if not self.contenders or not self.cases:
            raise ValueError("runner.contenders and runner.cases must not be empty")
        if self.baseline not in self.contenders:
            raise ValueError(f"runner.baseline must be one of runner.contenders {self.contenders}, got '{self.baseline}'")

    def check(self, study: Study) -> None:
        for name in self.contenders:
            CONTENDERS[name]
        if not isinstance(study.model, TransformerSpec):
            raise ValueError(f"runner=benchmark builds its own models and needs model=transformer, got {study.model.name}")
        if self.save is not None:
            check_folder(Path(self.save))

    def run(self, context: Context) -> dict[str, Any]:
        study, device = context.study, context.study.compute.torch_device
        terms = Terms(study.model, study.compute, study.loss.beta, study.trainer, study.seed)
        with context.timed("matmul"):
            peak = peak_of_matmul(study.compute)
        context.console.note(f"fastest matrix product: {peak / 1e9:,.0f} billion operations a second")
        rows: list[dict[str, Any]] = []
        for case in self.cases:
            with context.stage(case.name, f"{self.repeats} rounds of {', '.join(self.contenders)}"):
                rows += self._measured(context, terms, case, peak)
            write_atomically(context.run.path / RESULTS, "".join(map(to_line, rows)))
        columns, table = table_of(rows, self.baseline)
        context.console.table(
            f"Gradient of DPO on a batch; speedup over {self.baseline}, memory above the models", columns, table
        )
        picture = draw(rows, f"A training step on {_machine(device)}", context.run.path / "figure")
        context.run.add_figure("figure", picture)
        context.console.path("picture", picture)
        if self.save is not None:
            self._keep(Path(self.save), rows, columns, table, picture)
        return {"peak_operations_per_s": peak, "cases": rows}

    def _measured(self, context: Context, terms: Terms, case: Case, peak: float) -> list[dict[str, Any]]:
        """Rows of one case. Its models are gone when this returns."""
        device = terms.compute.torch_device
        ready = {name: prepared(terms, name, case) for name in self.contenders}
        timed = in_turns(
            {name: one.step for name, one in ready.items()},
            self.repeats,
            device,
            before=lambda name: ready[name].model.zero_grad(set_to_none=True),
        )
        first = ready[self.contenders[0]].setting
        assert isinstance(first.policy, TransformerPolicy)
        useful = useful_operations(first.batch, first.policy.forward_cost(), first.policy.head_size)
        memory: dict[str, int | None] = dict.fromkeys(self.contenders)
        if self.memory and device.type == "cuda":
            memory |= {name: of_step(one.step, one.model, device) for name, one in ready.items()}
        ready.clear()
        gc.collect()
        if self.memory and device.type == "cpu":
            memory |= {name: in_cold_process(terms, name, case, context.study.user_modules) for name in self.contenders}
        return [row_of(case, first.batch, name, timed, useful / peak, memory[name]) for name in self.contenders]

    def _keep(
        self, folder: Path, rows: list[dict[str, Any]], columns: list[str], table: list[list[str]], picture: Path
    ) -> None:
        place_table(folder, columns, table)
        facts = hardware() | {"threads": torch.get_num_threads()} | versions()
        write_atomically(folder / "results.jsonl", "".join(to_line({**row, "machine": facts}) for row in rows))
        shutil.copy(picture, folder / "figure.png")


def _machine(device: torch.device) -> str:
    facts = hardware()
    if device.type == "cuda":
        return str(facts["gpus"][device.index or 0])
    return f"{facts['cpu']}, {torch.get_num_threads()} threads"
