"""Independent copies of a network."""

from __future__ import annotations

import copy
import types
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def independent_copy(model: M, memo: dict[int, Any] | None = None) -> M:
    """A deep copy that shares nothing with `model`, not even through a function that a module keeps over itself or another.

    `copy.deepcopy` treats functions as atoms: a closure in the copy still reads the original's weights. x-transformers
    keeps its tied head (`tie_embedding=True`) as such a closure, so a plain deep copy would predict with the policy's head.
    `memo`: of a deep copy that this one is part of, see `copy.deepcopy`.
    """
    memo = {} if memo is None else memo
    twin = copy.deepcopy(model, memo)
    for original, module in zip(model.modules(), twin.modules(), strict=True):
        module.training = original.training  # some modules come out of a deep copy in training mode
        for name, value in list(vars(module).items()):
            if isinstance(value, types.FunctionType) and value.__closure__:
                setattr(module, name, _rebound(value, memo))
    return twin


def freeze(model: M) -> M:
    """`model` itself, in evaluation mode and without gradients."""
    return model.eval().requires_grad_(False)


def _rebound(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """The same function, closing over the copies of what it closed over."""
    assert function.__closure__ is not None
    cells = tuple(types.CellType(memo.get(id(cell.cell_contents), cell.cell_contents)) for cell in function.__closure__)
    twin = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__dict__.update(function.__dict__)
    return twin
