"""What a model choice is: how to build the network, and where its weights come from when they are not fitted here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dpo_lab.registry import Registry


@dataclass
class ModelSpec:
    """A causal language model over token ids: `module(tokens: Int[r n]) -> Float[r n v]`, with `max_seq_len`."""

    name: str

    def build(self, vocab_size: int) -> nn.Module:
        """A network with fresh weights, drawn from torch's default generator."""
        raise NotImplementedError

    def weights(self) -> Path | None:
        """A policy directory to start from, or None: the base is fitted by the run itself."""
        return None


MODELS: Registry[ModelSpec] = Registry("model")
