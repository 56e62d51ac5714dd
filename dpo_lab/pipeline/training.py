"""The training of a run: a trainer with the run's logs, evaluations and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor, nn

from dpo_lab.artifacts.digests import digest
from dpo_lab.artifacts.fingerprint import describe_values
from dpo_lab.artifacts.tensors import tensor_digest
from dpo_lab.evaluation.displacement import Displacement, resumed
from dpo_lab.evaluation.evaluator import Evaluator
from dpo_lab.models.policies import Policy
from dpo_lab.pipeline.context import Context
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.logps import Scoring
from dpo_lab.tracking import read_metrics, read_run
from dpo_lab.training.guards import Record
from dpo_lab.training.objective import Objective
from dpo_lab.training.references import Reference
from dpo_lab.training.result import TrainResult
from dpo_lab.training.train_state import set_weights, weights_of
from dpo_lab.training.trainer import Hooks, Trainer


def train_policy(
    context: Context,
    evaluator: Evaluator,
    policy: nn.Module,
    reference: Reference,
    train: CandidateBatch,
    held_out: CandidateBatch | None,
    base: Policy,
) -> tuple[Trainer, TrainResult]:
    """Train `policy`, a network like `base`'s, from the start or from a checkpoint; the trainer and its result."""
    study, run, settings = context.study, context.run, context.study.trainer
    check_start(context, base, train)
    with (
        context.timed("training"),
        context.stopping.between_steps(),
        context.console.progress(settings.num_steps, "training") as bar,
    ):

        def log(step: int, metrics: Mapping[str, float]) -> None:
            run.log(step, "train", metrics, pairs=step * settings.batch_size)
            bar.update(step, metrics)

        def evaluate(step: int) -> Mapping[str, float]:
            metrics: dict[str, float] = {}
            if held_out is not None and displacement is not None:
                logps = trainer.objective.score(held_out)
                metrics = trainer.objective.metrics(logps, held_out)
                metrics |= displacement.since_start(logps, metrics)
            metrics |= evaluator.evaluate(policy, study.evaluation.num_prompts_during).metrics
            run.log(step, "eval", metrics, pairs=step * settings.batch_size)
            return metrics

        def rehearse() -> None:
            if held_out is not None:
                trainer.objective.rehearse(held_out)
            evaluator.rehearse(policy)

        def checkpoint(kind: str, step: int, metrics: Mapping[str, float]) -> None:
            context.checkpoints.save(kind, step, weights_of(policy), trainer.state(), describe, metrics)

        def describe(directory: Path) -> None:
            run.flush()  # a run that is resumed from here does not log again what came before
            Policy(base.spec, policy, base.tokenizer).describe(directory)

        def guarded(records: Mapping[str, Record]) -> None:
            run.update(guards={what: asdict(record) for what, record in records.items()})

        displacement = None if held_out is None else displacement_of(context, policy, reference, held_out)
        resume = None
        if context.checkpoint is not None:
            resume = context.checkpoint.state()
            set_weights(policy, context.checkpoint.weights())

        trainer = Trainer(
            policy=policy,
            loss=study.loss,
            reference=reference,
            data=train,
            optimizers=study.optimizer.build(policy),
            schedule=study.schedule,
            settings=settings,
            compute=study.compute,
            seed=study.seed,
            hooks=Hooks(log, evaluate, checkpoint, lambda: context.stopping.asked, context.console.warn, guarded, rehearse),
            starts_at_reference=study.reference.weights() is None,
            scoring=reference.scoring or Scoring(),
            resume=resume,
        )
        try:
            result = trainer.fit()
        finally:
            context.checkpoints.finish()
    return trainer, result


def displacement_of(context: Context, policy: nn.Module, reference: Reference, held_out: CandidateBatch) -> Displacement:
    """What evaluations compare with the start of training; in a resumed run `policy` still has the weights of that start."""
    if context.checkpoint is None:
        return Displacement(held_out)
    study = context.study
    first = next((row for row in read_metrics(context.run.path) if row["split"] == "eval"), {})
    layouts = (reference.scoring or Scoring()).layouts
    apart = Scoring(layouts, study.compute.head_portion, *study.trainer.micro_batch_limits)  # with a count of its own
    at_start = Objective(policy, study.loss, replace(reference, scoring=apart), study.compute, apart)
    return resumed(held_out, first, at_start.score)


def check_start(context: Context, base: Policy, train: CandidateBatch) -> None:
    """Record what training starts from, bit for bit. Raises ValueError where a resumed run would start from something else."""
    made_from = {
        "base": tensors_digest(weights_of(base.module)),
        "tokenizer": digest(base.tokenizer.fingerprint()),
        "pairs": tensors_digest(train.tensors()),
    }
    then = read_run(context.run.path).get("made_from")
    if context.checkpoint is not None and then is not None and (changed := describe_values(then, made_from)):
        raise ValueError(
            f"{context.run.path} cannot be resumed, as it started from something else ({'; '.join(changed)}): "
            "resume=never starts a new run"
        )
    context.run.update(made_from=made_from, artifacts=context.store.used)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest of named tensors, to the last bit."""
    return digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})
