"""Runs a model with its `scaled_dot_product_attention` replaced by attention within the trees of a packed row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dpo_lab.scoring.attention.kernels import devices_with_kernels
from dpo_lab.scoring.attention.masked import masked_attention
from dpo_lab.scoring.attention.prefix_tree import PackedRow
from dpo_lab.scoring.attention.tree_attention import kernel_takes, tree_attention

T = TypeVar("T")


def with_tree_attention(row: PackedRow, run: Callable[[], T]) -> T:
    """The result of `run`, in which `scaled_dot_product_attention`, causal or with the row's placeholder mask, lets each token
    see only what it follows in its tree.

    Raises ValueError where it is called in any other way, with a bias or a window say, and if it is not called at all.
    """
    with _SdpaOverride(row, row.bounds()) as override:
        result = run()
    if not override.called:
        raise ValueError("its attention is not PyTorch's fused one")
    return result


def recomputation_context() -> AbstractContextManager[object]:
    """A context in which what is computed now can be computed once more, later and perhaps on another thread."""
    active = _active.get()
    return nullcontext() if active is None else _SdpaOverride(active.row, active.bounds)


class _SdpaOverride(TorchFunctionMode):
    def __init__(self, row: PackedRow, bounds: Tensor) -> None:
        super().__init__()
        self.row = row
        self.bounds = bounds  # a number here would be compiled into a model that is, lengths in a tensor are not
        self.has_kernels = row.text_offsets.device.type in devices_with_kernels()
        self.called = False
        self._outer: Token[_SdpaOverride | None] | None = None

    def __enter__(self) -> _SdpaOverride:
        super().__enter__()
        self._outer = _active.set(self)
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        assert self._outer is not None
        _active.reset(self._outer)
        super().__exit__(kind, value, trace)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        self.called = True
        return self._attention(*args, **(kwargs or {}))

    def _attention(  # of a compiled model part of the graph, where shapes cannot be asserted
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if key.shape[2] != query.shape[2]:
            raise ValueError("its attention sees other tokens than the row's")
        if not (is_causal or query.shape[2] == 1 if attn_mask is None else _may_be_placeholder(attn_mask)):
            raise ValueError("its attention has a mask, a bias or a window of its own")
        if enable_gqa and key.shape[1] != query.shape[1]:
            key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
        device = query.device.type
        if torch.is_autocast_enabled(device):
            query, key, value = (t.to(torch.get_autocast_dtype(device)) for t in (query, key, value))
        with torch.autocast(device, enabled=False):
            if dropout_p or not self.has_kernels or not kernel_takes(query):
                return masked_attention(query, key, value, self.row, scale, dropout_p)
            return tree_attention(query, key, value, self.row, self.bounds, scale)


def _may_be_placeholder(mask: Tensor) -> bool:
    """Whether it may have been cut from the placeholder: one number for all tokens. If it is something else, the self-check of
    the layout sees it; to compare addresses would end a compiled graph.
    """
    return mask.dtype == torch.bool and not any(
        size > 1 and step for size, step in zip(mask.shape[-2:], mask.stride()[-2:], strict=True)
    )


_active: ContextVar[_SdpaOverride | None] = ContextVar("active override", default=None)
"""The innermost override of this thread."""
