"""Evaluate a finished policy again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from dpo_lab.models.copies import freeze
from dpo_lab.pipeline.base import RUNNERS, RunnerSpec
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.pairs_evaluation import evaluate_pairs
from dpo_lab.pipeline.seeds import Vary
from dpo_lab.pipeline.stages import Stages
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.trained_run import TrainedRun


@RUNNERS.register
@dataclass
class EvaluateRunner(RunnerSpec):
    """Evaluate the policy of the run at `model.path` against that run's own reference, on its own held-out prompts.

    Data, reward and evaluation are as that run's config.yaml has them; the fields here replace what they name.
    """

    name: str = "evaluate"
    num_prompts: int | None = None
    """Held-out prompts to sample for. None: as many as the run itself."""
    seed: int | None = None
    """Seed of the samples. None: that of the run's own evaluations."""
    pairs: str = ""
    """A file that data=pairs can read: only score its pairs, by the loss's implicit rewards."""

    trains: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...] | None] = ("model", "accept")

    def __post_init__(self) -> None:
        if self.num_prompts is not None and self.num_prompts < 2:
            raise ValueError(f"runner.num_prompts must be at least 2, got {self.num_prompts}")

    def check(self, study: Study) -> None:
        if study.model.weights() is None:
            raise ValueError("runner=evaluate needs a trained policy: model=checkpoint model.path=RUN_DIRECTORY")

    def earlier_study(self, study: Study) -> Study | None:
        weights = study.model.weights()
        return None if weights is None else TrainedRun.at(weights).study

    def run(self, context: Context) -> dict[str, Any]:
        weights = context.study.model.weights()
        assert weights is not None, "checked"
        run = TrainedRun.at(weights)
        trained = run.study
        settings = trained.evaluation
        if self.num_prompts is not None:
            settings = replace(settings, num_prompts=self.num_prompts)
        if self.seed is not None:
            settings = replace(settings, seed=self.seed)
        study = replace(
            trained, vary=Vary.training, evaluation=settings, compute=context.study.compute, store=context.study.store
        )
        stages = Stages(replace(context, study=study))
        if self.pairs:
            return evaluate_pairs(replace(context, study=study), self.pairs, run, stages)
        policy = run.policy.module.to(study.compute.torch_device)
        run.check_base(stages.base[0])
        evaluator = stages.evaluator(freeze(stages.base[0].module))
        with context.stage("evaluation", f"{settings.num_prompts:,} held-out prompts"):
            evaluation = evaluator.evaluate(policy, settings.num_prompts)
        context.run.write_samples(evaluation.rows)
        return {**evaluation.summary(), "best_of_n": evaluator.best_of_n(settings.sizes)}
