"""Other ways to run a network's body, with the same results: compiled, or keeping less for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dpo_lab.attention import again


@runtime_checkable
class NamesBlocks(Protocol):
    """A model that says which of its modules is its body, and which blocks that consists of."""

    def body(self) -> nn.Module: ...
    def blocks(self) -> list[nn.Module]: ...


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only what goes into a block; what happens inside is computed again in the backward pass."""
    for block in _named(model, "checkpointing").blocks():
        block.forward = partial(_checkpointed, block.forward)  # an attribute, not a module: the state dict stays as it is


def compile_body(model: nn.Module, backend: str = "inductor") -> None:
    """Compile everything between embedding and head, for shapes that vary, at the first call."""
    _named(model, "compile").body().compile(dynamic=True, backend=backend)


def _checkpointed(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, context_fn=_contexts, **named)


def _contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), again()


def _named(model: nn.Module, option: str) -> NamesBlocks:
    if not isinstance(model, NamesBlocks):
        raise ValueError(f"compute.{option}: {type(model).__name__} does not name its body and blocks; leave the option out")
    return model
