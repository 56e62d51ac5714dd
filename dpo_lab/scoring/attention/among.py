"""In place of a model's fused attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import local
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dpo_lab.scoring.attention.kernels import attention, there_is_one_for
from dpo_lab.scoring.attention.masks import with_masks
from dpo_lab.scoring.attention.trees import Trees

T = TypeVar("T")


def attending_among(trees: Trees, run: Callable[[], T]) -> T:
    """What `run` gives when `scaled_dot_product_attention`, causal or with the trees' stand-in for a mask, sees of the row what
    each token follows in its tree.

    Raises ValueError where it is asked for anything else, a bias or a window say, and if it is not asked at all.
    """
    with _Among(trees, trees.spans()) as among:
        found = run()
    if not among.asked:
        raise ValueError("its attention is not PyTorch's fused one")
    return found


def again() -> AbstractContextManager[object]:
    """In which that what is computed now can be computed once more, later and perhaps on another thread."""
    return _Among(_entered()[-1].trees, _entered()[-1].spans) if _entered() else nullcontext()


class _Among(TorchFunctionMode):
    def __init__(self, trees: Trees, spans: Tensor) -> None:
        super().__init__()
        self.trees = trees
        self.spans = spans  # a number here would be compiled into a model that is, lengths in a tensor are not
        self.asked = False

    def __enter__(self) -> _Among:
        super().__enter__()
        _entered().append(self)
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        _entered().pop()
        super().__exit__(kind, value, trace)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        self.asked = True
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
        if not (is_causal or query.shape[2] == 1 if attn_mask is None else _may_be_the_stand_in(attn_mask)):
            raise ValueError("its attention has a mask, a bias or a window of its own")
        if enable_gqa and key.shape[1] != query.shape[1]:
            key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
        device = query.device.type
        if torch.is_autocast_enabled(device):
            query, key, value = (t.to(torch.get_autocast_dtype(device)) for t in (query, key, value))
        with torch.autocast(device, enabled=False):
            if dropout_p or not there_is_one_for(query):
                return with_masks(query, key, value, self.trees, scale, dropout_p)
            return attention(query, key, value, self.trees, self.spans, scale)


def _may_be_the_stand_in(mask: Tensor) -> bool:
    """Whatever has been cut from that: one number for all tokens. What else it could be, a self-check finds out; to compare
    addresses would end a compiled graph.
    """
    return mask.dtype == torch.bool and not any(
        size > 1 and step for size, step in zip(mask.shape[-2:], mask.stride()[-2:], strict=True)
    )


_of_thread = local()


def _entered() -> list[_Among]:
    if not hasattr(_of_thread, "entered"):
        _of_thread.entered = []
    found: list[_Among] = _of_thread.entered
    return found
