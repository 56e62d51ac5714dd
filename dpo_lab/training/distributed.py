"""Data parallelism: processes that share the rows of every training step.

This is the only place that knows of several processes: who belongs to the group (`joined`), who passes which rows (`rows`),
and who adds up what the processes computed (`sum` and `sum_gradients`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn


@dataclass(frozen=True)
class DataParallelGroup:
    """The processes that share a step; by default this process alone.

    Each process knows the whole step's batch (a function of seed and step), passes its own rows, and ends with the gradient of
    all rows: weights that are equal at the start stay equal to the last bit.
    """

    rank: int = 0
    size: int = 1

    def rows(self, count: int) -> Int[Tensor, " n"]:
        """The rows of a step of `count` prompts that this process passes. Raises ValueError if there are too few to share."""
        if count < self.size:
            raise ValueError(f"a step of {count} prompts cannot be shared by {self.size} processes: raise trainer.batch_size")
        return torch.arange(count).tensor_split(self.size)[self.rank]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on each."""
        if self.size > 1:
            tensor = tensor.contiguous()
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its sum over all processes; one that a process does not have counts 0."""
        if self.size == 1:
            return
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = self.sum(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)


def joined() -> DataParallelGroup:
    """The default process group of torch.distributed if this process has joined it, otherwise this process alone."""
    if dist.is_available() and dist.is_initialized():
        return DataParallelGroup(dist.get_rank(), dist.get_world_size())
    return DataParallelGroup()
