"""Processes that share the work of a step, each on its own rows. One process alone is a group of one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn


@dataclass
class Ranks:
    """The default process group of torch.distributed, if there is one (and `alone` is not asked for).

    Every rank knows the whole step's batch (it is a function of seed and step), runs its own rows, and ends with the gradient
    of all: weights that are equal at the start stay equal to the last bit.
    """

    alone: bool = False

    @property
    def size(self) -> int:
        return dist.get_world_size() if self._together else 1

    @property
    def rank(self) -> int:
        return dist.get_rank() if self._together else 0

    @property
    def _together(self) -> bool:
        return not self.alone and dist.is_available() and dist.is_initialized()

    def rows(self, count: int) -> Int[Tensor, " n"]:
        """Rows of this rank out of so many. Raises ValueError where there are fewer than ranks."""
        if count < self.size:
            raise ValueError(f"a step of {count} prompts cannot be shared by {self.size} processes: raise trainer.batch_size")
        return torch.arange(count).tensor_split(self.size)[self.rank]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, on each."""
        if self.size > 1:
            tensor = tensor.contiguous()
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its sum over all ranks; a rank without one counts 0."""
        if self.size == 1:
            return
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = self.sum(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
