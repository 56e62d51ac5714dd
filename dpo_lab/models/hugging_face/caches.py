"""Keys and values of what a Hugging Face model has read. Only the models that need transformers import this."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

States = Float[Tensor, "r h n _"]
AllStates = Float[Tensor, "r h c _"]
"""With what came before."""


class Recorded(DynamicLayer):
    """Keeps the keys and values of one reading."""

    def update(self, key_states: States, value_states: States, *args: Any, **kwargs: Any) -> tuple[AllStates, AllStates]:
        # Not appended to what is there: a checkpointed block is run again in the backward pass.
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states


class Continued(DynamicLayer):
    """Puts keys and values in front of those of what follows, and keeps nothing of that."""

    def __init__(self, keys: AllStates, values: AllStates) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key_states: States, value_states: States, *args: Any, **kwargs: Any) -> tuple[AllStates, AllStates]:
        return torch.cat((self.keys, key_states), dim=2), torch.cat((self.values, value_states), dim=2)


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


def recording() -> Cache:
    return Cache(layer_class_to_replicate=Recorded)


def continuing(recorded: Cache, rows: Int[Tensor, " r"]) -> Cache:
    """After these rows of what has been recorded."""
    return Cache(
        layers=[Continued(layer.keys.index_select(0, rows), layer.values.index_select(0, rows)) for layer in recorded.layers]
    )


def buffering(width: int) -> Cache:
    return Cache(layer_class_to_replicate=partial(Buffered, width))
