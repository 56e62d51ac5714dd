"""Which step's weights become the policy of a run: the last step's, or the best evaluation's."""

from __future__ import annotations

from dpo_lab.artifacts.directory import DamagedError, verify_directory
from dpo_lab.pipeline.context import Context
from dpo_lab.training.checkpoints import Checkpoint
from dpo_lab.training.result import TrainResult
from dpo_lab.training.settings import Kept
from dpo_lab.training.train_state import below, loss_values, set_weights
from dpo_lab.training.trainer import Trainer


def keep_policy(context: Context, trainer: Trainer, result: TrainResult) -> int:
    """Give the policy the weights that `trainer.policy` asks for, and return their step. An early end is reported.

    With the best step's weights the reference and the loss's state are that step's too: evaluated again, its pairs give what
    they gave then.
    """
    settings, last = trainer.settings, result.steps
    if result.reason:
        where = f"training ended at step {last} of {settings.num_steps}: {result.reason}"
        if result.by_the_clock:
            context.console.warn(f"{where}; how far it comes in a time depends on the machine")
        else:
            context.console.note(where)
    best: int = context.checkpoints.index.get("best", {}).get("step", last)
    step = best if settings.policy is Kept.best else last
    if settings.policy is Kept.best:
        _restore_best(context, trainer)
        context.console.note(f"policy/ holds step {best} of {last}, the best by {settings.best_metric}")
    elif best != last:
        better = f"the best by {settings.best_metric} was step {best} (trainer.policy=best keeps that)"
        context.console.note(f"policy/ holds the last step, {last}; {better}")
    why = {"reason": result.reason} if result.reason else {}
    bound = {"bounded_by": "trainer.max_minutes"} if result.by_the_clock else {}
    context.run.update(steps=last, policy_step=step, **why, **bound)
    return step


def _restore_best(context: Context, trainer: Trainer) -> None:
    """Load the weights of the best step. Raises ValueError where there is none, or its checkpoint cannot be read."""
    entry = context.checkpoints.index.get("best")
    if entry is None:
        raise ValueError(
            f"trainer.policy=best: no evaluation gave a number for trainer.best_metric={trainer.settings.best_metric}, or its "
            "checkpoint could not be kept: choose another metric, or trainer.policy=last"
        )
    best = Checkpoint(context.checkpoints.root / entry["checkpoint"], entry["step"])
    if best.step == trainer.step:
        return
    try:
        verify_directory(best.path)
    except DamagedError as error:
        raise ValueError(f"trainer.policy=best: {error}; choose trainer.policy=last") from error
    state = best.state()
    set_weights(trainer.policy, best.weights())
    trainer.objective.loss_state = loss_values(below("loss", state), trainer.compute.torch_device)
    if trainer.reference is not None:
        trainer.reference.restore(below("reference", state))
