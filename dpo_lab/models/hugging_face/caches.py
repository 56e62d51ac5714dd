"""Keys and values of what a Hugging Face model has read. Only the models that need transformers import this."""

from __future__ import annotations

from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

States = Float[Tensor, "r h n _"]
AllStates = Float[Tensor, "r h c _"]
"""With what came before."""


class Buffered(DynamicLayer):
    """Writes into buffers of full width: what is there already is not copied for every token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.end, self.is_initialized = width, 0, False

    def get_seq_length(self) -> int:
        return self.end

    def update(self, key_states: States, value_states: States, *args: Any, **kwargs: Any) -> tuple[AllStates, AllStates]:
        if not self.is_initialized:
            self.keys, self.values = (t.new_empty(*t.shape[:2], self.width, t.shape[3]) for t in (key_states, value_states))
            self.is_initialized = True
        start, self.end = self.end, self.end + key_states.shape[2]
        self.keys[:, :, start : self.end] = key_states
        self.values[:, :, start : self.end] = value_states
        return self.keys[:, :, : self.end], self.values[:, :, : self.end]


def buffering(width: int) -> Cache:
    return Cache(layer_class_to_replicate=partial(Buffered, width))
