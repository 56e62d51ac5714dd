"""Checks at the start of a training: the longest batch and evaluation fit into memory, and the first loss is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import CandidateBatch
from dpo_lab.training.compute import Compute
from dpo_lab.training.objective import Objective, StepOutputs
from dpo_lab.training.settings import TrainerSettings
from dpo_lab.training.train_state import random_state, set_random_state

STEPS_SEARCHED = 1000
"""Steps whose batches are looked at: with most data, a thousand of them hold every row."""


def longest_step(rows: Callable[[int], Tensor], lengths: Tensor, num_steps: int) -> int:
    """The step, counted from 0, with the longest row among the first thousand; of several, the one with the most tokens."""

    def size(step: int) -> tuple[int, int]:
        in_step = lengths[rows(step)]
        return int(in_step.max()), int(in_step.sum())

    return max(range(min(num_steps, STEPS_SEARCHED)), key=size)


def try_out(
    objective: Objective, batch: CandidateBatch, settings: TrainerSettings, rehearse: Callable[[], None] = lambda: None
) -> None:
    """Run one forward and backward pass, and the largest passes of an evaluation, and undo all they changed.

    Raises ValueError where memory does not suffice.
    """
    device, scoring = objective.compute.torch_device, objective.scoring
    random, state, used = random_state(device), objective.loss_state, Counter(scoring.used)
    try:
        with memory_explained(batch, settings):
            objective.fill_gradients(batch)
        objective.policy.zero_grad(set_to_none=True)
        with evaluation_explained(settings):
            rehearse()
    finally:
        objective.policy.zero_grad(set_to_none=True)
        set_random_state(random, device)
        objective.loss_state = state
        scoring.used.clear()
        scoring.used.update(used)


def check_initial_loss(
    loss: PreferenceLoss, outputs: StepOutputs, compute: Compute, dropout: bool, warn: Callable[[str], None]
) -> None:
    """Warn if a policy that starts as the reference does not score as it: the first loss is then not the loss's constant."""
    values, logps = outputs.values, outputs.logps
    expected = loss.value_at_reference(len(logps.mask))
    if logps.reference is None or expected is None or not logps.mask.any():
        return
    apart = float((logps.policy - logps.reference).abs().max())
    if apart > (1e-3 if compute.autocast_is_off else 0.25):  # nats a token; bfloat16 rounds logits that much
        reason = "Dropout is on (trainer.dropout=true)." if dropout else "Their weights or dtypes differ."
        warn(
            f"the policy starts as the reference, so the first {loss.name} loss should be {expected:.4f}; it is "
            f"{float(values.mean()):.4f}, with log-probabilities up to {apart:.3g} nats a token apart. {reason}"
        )


@contextmanager
def memory_explained(batch: CandidateBatch, settings: TrainerSettings) -> Iterator[None]:
    """Raises ValueError, naming the setting to lower, if the body (a step) runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        count, tokens = batch.num_candidates * len(batch), batch.prompt.shape[1] + batch.completions.shape[2]
        if settings.micro_batch_tokens is not None:
            first = f"lower trainer.micro_batch_tokens={settings.micro_batch_tokens}"
        else:
            present = settings.micro_batch_size or len(batch)
            first = f"set trainer.micro_batch_size={max(present // 2, 1)}" if present > 1 else "shorten the data"
        raise ValueError(
            f"out of memory in a step of {count} completions, with their prompts up to {tokens} tokens each: {first} (the "
            "result is the same), compute.checkpointing=true, compute.head_portion=256 or a smaller model"
        ) from error


@contextmanager
def evaluation_explained(settings: TrainerSettings) -> Iterator[None]:
    """Raises ValueError, naming the setting to lower, if the body (an evaluation) runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        size, tokens = settings.micro_batch_limits
        first = "set trainer.micro_batch_tokens=4096 or less"
        if tokens is not None:
            first = f"lower trainer.micro_batch_tokens={tokens}"
        elif size is not None:
            first = f"lower trainer.micro_batch_size={size}"
        raise ValueError(
            f"out of memory in an evaluation: {first} (the result is the same), compute.head_portion=256 or a smaller model"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
