"""A model choice: how the network is built, and where its weights come from if the run does not fit them itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.registry import Registry


@dataclass
class Opened:
    """A finished model read from other tools' files."""

    module: nn.Module
    tokenizer: Tokenizer
    key: str
    """A digest of the weights and the tokenizer."""


@dataclass
class ModelSpec:
    """A causal language model over token ids: `module(tokens: Int[r n]) -> Float[r n v]`, with `max_seq_len`."""

    name: str

    def build(self, vocab_size: int) -> nn.Module:
        """A network with fresh weights, drawn from torch's default generator."""
        raise NotImplementedError

    def weights(self) -> Path | None:
        """The directory of the weights to start from; None: the run fits the base itself. Raises ValueError for a bad one."""
        return None

    def open(self) -> Opened | None:
        """The model in that directory, where it is no policy directory."""
        return None

    def rebuild(self, directory: Path, vocab_size: int) -> nn.Module:
        """The network of a policy directory, before its weights are loaded."""
        return self.build(vocab_size)

    def write(self, module: nn.Module, directory: Path) -> ModelSpec:
        """Write what `rebuild` needs beside the weights into a policy directory; the spec to call it on."""
        return self

    def export(self, module: nn.Module, directory: Path, merge: bool) -> None:
        """Write the network in a format that other tools read; `merge` adds an adapter to its base's weights for good."""
        raise ValueError(f"model={self.name} has no files that other tools read")


MODELS: Registry[ModelSpec] = Registry("model", "dpo_lab.models")
