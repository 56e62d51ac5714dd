"""The private attention operations of PyTorch, called nowhere else, and the check that this PyTorch has them as expected.

PyTorch's public attention does not return the log-sum-exp of its scores, which joining two blocks needs; these operations do.
Private ones may change with any release: where a signature is another than is written here, `devices_with_kernels` leaves the
device out, and `masked` computes the same with public attention. What a signature cannot say, the self-check of a layout sees.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)
ALIGNED = 32
"""CUDA's memory-efficient kernel has room for so many log-sum-exps, or a multiple."""

ATTENTION = "Tensor query, Tensor key, Tensor value"
BACKWARD = f"{ATTENTION}, Tensor out, Tensor logsumexp"
VARLEN = "int max_q, int max_k, float dropout_p, bool is_causal"
EXPECTED = {
    "cpu": {
        "_scaled_dot_product_flash_attention_for_cpu": (f"{ATTENTION}, float dropout_p, bool is_causal", 2),
        "_scaled_dot_product_flash_attention_for_cpu_backward": (
            f"Tensor grad_out, {BACKWARD}, float dropout_p, bool is_causal",
            3,
        ),
    },
    "cuda": {
        "_scaled_dot_product_efficient_attention": (
            f"{ATTENTION}, Optional[Tensor] attn_bias, bool compute_log_sumexp, float dropout_p, bool is_causal",
            4,
        ),
        "_scaled_dot_product_efficient_attention_backward": (
            f"Tensor grad_out_, {ATTENTION}, Tensor attn_bias, Tensor out, Tensor logsumexp, Tensor philox_seed, "
            "Tensor philox_offset, float dropout_p, List[bool] grad_input_mask, bool is_causal",
            4,
        ),
        "_flash_attention_forward": (
            f"{ATTENTION}, Optional[Tensor] cum_seq_q, Optional[Tensor] cum_seq_k, {VARLEN}, bool return_debug_mask",
            5,
        ),
        "_flash_attention_backward": (
            f"Tensor grad_out, {BACKWARD}, Tensor cum_seq_q, Tensor cum_seq_k, {VARLEN}, Tensor rng_state, Tensor unused",
            3,
        ),
    },
}
"""For each device: operation -> (the arguments that are given to it by position, how many tensors it returns)."""


@cache
def devices_with_kernels() -> frozenset[str]:
    """The kinds of device whose operations have the expected signatures; a warning for each that has not."""
    usable = set()
    for device, operations in EXPECTED.items():
        changed = [name for name, (arguments, returns) in operations.items() if not has_signature(name, arguments, returns)]
        if not changed:
            usable.add(device)
            continue
        log.warning(
            "torch %s has no %s as this version knows it: packed rows are computed with masks on %s, which is slower",
            torch.__version__,
            " and no ".join(changed),
            device,
        )
    return frozenset(usable)


def has_signature(name: str, arguments: str, returns: int, namespace: str = "aten") -> bool:
    """Whether an operation takes these arguments by position and, named, an optional `scale`, needs no others, and returns
    so many tensors.
    """
    try:
        schema = getattr(getattr(torch.ops, namespace), name).default._schema
    except AttributeError:
        return False
    wanted = arguments.split(", ")
    first, others = schema.arguments[: len(wanted)], schema.arguments[len(wanted) :]
    return (
        [f"{argument.type} {argument.name}" for argument in first] == wanted
        and not any(argument.kwarg_only for argument in first)
        and all(argument.has_default_value() for argument in others)
        and any(argument.name == "scale" and str(argument.type) == "Optional[float]" for argument in others)
        and [str(result.type) for result in schema.returns] == ["Tensor"] * returns
    )


def block_forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
    """Result and log-sum-exp, b h n d and b h n."""
    if query.is_cuda:
        out, logsumexp, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
        return out, logsumexp[:, :, : query.shape[2]]
    result: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, scale=scale
    )
    return result


def block_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    given = grad, query, key, value
    if query.is_cuda:
        room = -logsumexp.shape[2] % ALIGNED
        padded = F.pad(logsumexp, (0, room), value=float("inf")).contiguous()
        seed = torch.zeros((), dtype=torch.long, device=query.device)  # of the dropout that there is not
        *grads, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            *given, None, out, padded, seed, seed, 0.0, [True, True, True, False], causal, scale=scale
        )
        return grads[0], grads[1], grads[2]
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *given, out, logsumexp, 0.0, causal, scale=scale
    )
    return gradients


Offsets = tuple[Tensor, Tensor, int, int]
"""Offsets of the queries' sequences, and of the keys'; the length of the longest of either."""


def varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, offsets: Offsets, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Result and log-sum-exp, n h d and h n."""
    out, logsumexp, *_ = torch.ops.aten._flash_attention_forward(query, key, value, *offsets, 0.0, causal, False, scale=scale)
    return out, logsumexp


def varlen_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    offsets: Offsets,
    causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    seed = torch.zeros(2, dtype=torch.uint64, device=query.device)  # of the dropout that there is not
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad, query, key, value, out, logsumexp, *offsets, 0.0, causal, seed, seed[:0], scale=scale
    )
    return gradients
