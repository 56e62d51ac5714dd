"""Wrappers around a network's layers that change no result: torch.compile, and activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dpo_lab.scoring.attention import recomputation_context

GRAPHS = 32
"""Variants of one function that are compiled; further ones run uncompiled."""


@runtime_checkable
class HasBlocks(Protocol):
    """A model that says which blocks its body consists of, and which parts of it are compiled as one each."""

    def parts(self) -> list[nn.Module]: ...
    def blocks(self) -> list[nn.Module]: ...


def wrap_layers(model: nn.Module, compile: bool, checkpointing: bool) -> None:
    """Compile the layers, checkpoint them, or both: then what is computed again is compiled, too. Errors as of each."""
    if compile:
        compile_layers(model)
    if checkpointing:
        checkpoint_blocks(model)


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only each block's input for the backward pass, which computes again what happens inside."""
    for block in _with_blocks(model, "checkpointing").blocks():
        block.forward = partial(_run_checkpointed, block.forward)  # an attribute, not a module: the state dict stays as it is


def compile_layers(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """torch.compile the parts of the body's layers, for shapes that vary, at the first call.

    Layer by layer, because layers are alike: what is compiled for one serves all of them. Raises ValueError for a model that
    does not name its parts, and where a part no longer runs its class's own forward.
    """
    # Of a kind of layer: each layout, with and without gradients, and each stage of sampling has a graph of its own.
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    for part in _with_blocks(model, "compile").parts():
        if "forward" in vars(part):
            raise ValueError(f"a {type(part).__name__} has a forward of its own; compile it before that is put on")
        plain = type(part).forward
        compiled = torch.compile(plain, dynamic=True, backend=backend)
        part.forward = partial(_run_compiled, compiled, plain, part)  # a copy of the model finds its own part there


def _run_compiled(compiled: Callable[..., Any], plain: Callable[..., Any], part: nn.Module, *given: Any, **named: Any) -> Any:
    """Run a compiled part; plainly where a cache is given, which tells layers apart: each would be compiled for itself."""
    has_cache = any(hasattr(value, "get_seq_length") for value in (*given, *named.values()))
    return (plain if has_cache else compiled)(part, *given, **named)


def _run_checkpointed(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, context_fn=_contexts, **named)


def _contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), recomputation_context()


def _with_blocks(model: nn.Module, option: str) -> HasBlocks:
    if not isinstance(model, HasBlocks):
        raise ValueError(f"compute.{option}: {type(model).__name__} does not name its blocks and parts; leave the option out")
    return model
