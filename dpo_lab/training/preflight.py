"""The longest batch and evaluation, tried before anything else: where memory is too small, that shows in the first seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dpo_lab.records import CandidateBatch
from dpo_lab.training.objective import Objective
from dpo_lab.training.settings import TrainerSettings
from dpo_lab.training.train_state import random_state, set_random_state

STEPS_SEARCHED = 1000
"""Steps whose batches are looked at: a thousand times the batch size sees every row of most data."""


def longest_step(rows: Callable[[int], Tensor], lengths: Tensor, num_steps: int) -> int:
    """Number, from 0, of the step with the longest row, and of those the one with the most tokens, among the first thousand."""

    def size(step: int) -> tuple[int, int]:
        of_rows = lengths[rows(step)]
        return int(of_rows.max()), int(of_rows.sum())

    return max(range(min(num_steps, STEPS_SEARCHED)), key=size)


def try_out(
    objective: Objective, batch: CandidateBatch, settings: TrainerSettings, rehearse: Callable[[], None] = lambda: None
) -> None:
    """One forward and backward pass whose gradient is thrown away, and the largest passes of an evaluation.

    Nothing is left of them: no state, no random number.

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


@contextmanager
def memory_explained(batch: CandidateBatch, settings: TrainerSettings) -> Iterator[None]:
    """Raises ValueError, with what to lower, where the body runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        if not _is_of_memory(error):
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
    """The same for an evaluation."""
    try:
        yield
    except RuntimeError as error:
        if not _is_of_memory(error):
            raise
        size, tokens = settings.portions
        first = "set trainer.micro_batch_tokens=4096 or less"
        if tokens is not None:
            first = f"lower trainer.micro_batch_tokens={tokens}"
        elif size is not None:
            first = f"lower trainer.micro_batch_size={size}"
        raise ValueError(
            f"out of memory in an evaluation: {first} (the result is the same), compute.head_portion=256 or a smaller model"
        ) from error


def _is_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
