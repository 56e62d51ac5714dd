"""The main run: train a policy on preferences against its reference, and evaluate it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_lab.models.copies import freeze
from dpo_lab.models.layer_wrappers import wrap_layers
from dpo_lab.models.policies import Policy
from dpo_lab.pipeline.base import RUNNERS, DivergedError, RunnerSpec
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.kept_policy import keep_policy
from dpo_lab.pipeline.reference_model import reference_model
from dpo_lab.pipeline.stages import Stages
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.training import train_policy
from dpo_lab.pipeline.upfront_checks import check_training
from dpo_lab.preferences.base import SampledSource, noun
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import Layout
from dpo_lab.scoring.logps import Scoring
from dpo_lab.scoring.self_check import exact_layouts
from dpo_lab.training.references import Reference
from dpo_lab.training.result import Status


@RUNNERS.register
@dataclass
class PreferenceRunner(RunnerSpec):
    """Fit or load the base policy, get pairs, train against the reference, evaluate on held-out prompts."""

    name: str = "preference"

    def check(self, study: Study) -> None:
        if not study.candidates.sampled and not study.data.has_pairs:
            raise ValueError(
                f"data={study.data.name} has no labelled pairs: choose candidates=sampled and a reward, or data=pairs"
            )
        check_training(study)
        if study.candidates.most_rows is not None:
            study.trainer.check_rows(study.candidates.most_rows, noun(study.candidates.num_candidates or 2))

    def run(self, context: Context) -> dict[str, Any]:
        study = context.study
        stages = Stages(context)
        train, held_out, labelled = stages.pairs()  # before the base policy is fitted, where they do not come from it
        study.loss.check(train)
        if warning := study.trainer.check_rows(len(train), noun(train.num_candidates)):
            context.console.warn(warning)
        base, base_key = stages.base
        if study.loss.needs_mismatched:
            train = train.with_mismatched()
        for warning in warnings_about(study, train):
            context.console.warn(warning)
        policy = base.copy(study.compute.torch_device)
        start = freeze(base.module)
        reference, reference_key = reference_model(study.reference, base, base_key)
        layouts = exact_layouts(policy, study.compute.layout, context.console.note)
        if study.reference.weights() is not None:  # it may be of another architecture
            also = exact_layouts(reference, study.compute.layout, context.console.note)
            layouts = tuple(layout for layout in layouts if layout in also) or (Layout.rows,)
        scoring = Scoring(layouts, study.compute.head_portion, *study.trainer.micro_batch_limits)
        wrap_layers(policy, study.compute.compile, study.compute.checkpointing)
        with study.compute.autocast(), context.stage("reference", study.reference.name) as stage:
            context.follow_artifacts(stage)
            train = study.reference.prepare(reference, train, reference_key, context.store, scoring)
            if held_out is not None:
                held_out = study.reference.prepare(reference, held_out, reference_key, context.store, scoring)
        evaluator = stages.evaluator(start)  # KL is from where training began, wherever the reference has gone
        trainer, result = train_policy(
            context, evaluator, policy, Reference(study.reference, reference, scoring=scoring), train, held_out, base
        )
        context.run.update(
            artifacts=context.store.used, layouts={layout.value: count for layout, count in scoring.used.items()}
        )
        context.console.note(f"layout: {scoring.summary()}")
        if result.status is Status.diverged:
            raise DivergedError(result.reason)
        step = keep_policy(context, trainer, result)
        Policy(base.spec, policy, base.tokenizer).save(context.run.path / "policy")
        with context.stage("evaluation", f"{study.evaluation.num_prompts:,} held-out prompts"):
            evaluation = evaluator.evaluate(policy, study.evaluation.num_prompts)
            best_of = evaluator.best_of_n(study.evaluation.sizes)
            pair_metrics = {} if held_out is None else trainer.objective.evaluate(held_out)
        context.run.write_samples(evaluation.rows)
        summary: dict[str, Any] = {
            "step": step,
            **({"ended": result.reason} if result.reason else {}),
            **evaluation.summary(),
            **{f"eval/{name}": value for name, value in pair_metrics.items()},
        }
        if best_of:
            summary["best_of_n"] = best_of
        if labelled is not None and isinstance(study.candidates, SampledSource):
            # At another temperature they are not the reference's: its KL, and so its frontier, is at temperature 1.
            summary |= evaluator.ideal_frontier(evaluation, *([labelled] if study.candidates.temperature == 1 else []))
        return summary


def warnings_about(study: Study, train: CandidateBatch) -> list[str]:
    """What a user should know about the settings, given the data."""
    warnings = study.loss.warnings()
    sure = train.preferences() if train.num_candidates > 1 else train.confidence
    if not study.loss.reads_confidence and ((sure > 0) & (sure < 1)).any():
        warnings.append(f"loss={study.loss.name} takes the order of the candidates as certain, but this data has soft labels")
    if train.num_candidates == 1 and train.desirable is not None and bool((train.desirable == train.desirable[0, 0]).all()):
        kind = "desirable" if train.desirable[0, 0] else "undesirable"
        warnings.append(f"all {len(train):,} completions are {kind}: only the reference holds the policy from the other side")
    return warnings + (study.reference.warnings(study.trainer.num_steps) if study.loss.needs_reference else [])
