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
"""CUDA's memory-efficient kernel pads its log-sum-exps to a multiple of this."""

EXPECTED = {
    "cpu": (
        "_scaled_dot_product_flash_attention_for_cpu(Tensor query, Tensor key, Tensor value, float dropout_p=0., "
        "bool is_causal=False, *, Tensor? attn_mask=None, float? scale=None) -> (Tensor output, Tensor logsumexp)",
        "_scaled_dot_product_flash_attention_for_cpu_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, "
        "Tensor out, Tensor logsumexp, float dropout_p, bool is_causal, *, Tensor? attn_mask=None, float? scale=None) "
        "-> (Tensor grad_query, Tensor grad_key, Tensor grad_value)",
    ),
    "cuda": (
        "_scaled_dot_product_efficient_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_bias, "
        "bool compute_log_sumexp, float dropout_p=0., bool is_causal=False, *, float? scale=None) "
        "-> (Tensor output, Tensor log_sumexp, Tensor philox_seed, Tensor philox_offset)",
        "_scaled_dot_product_efficient_attention_backward(Tensor grad_out_, Tensor query, Tensor key, Tensor value, "
        "Tensor attn_bias, Tensor out, Tensor logsumexp, Tensor philox_seed, Tensor philox_offset, float dropout_p, "
        "bool[4] grad_input_mask, bool is_causal=False, *, float? scale=None) -> (Tensor, Tensor, Tensor, Tensor)",
        "_flash_attention_forward(Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, Tensor? cum_seq_k, SymInt max_q, "
        "SymInt max_k, float dropout_p, bool is_causal, bool return_debug_mask, *, float? scale=None) "
        "-> (Tensor output, Tensor softmax_logsumexp, Tensor rng_state, Tensor unused, Tensor debug_attn_mask)",
        "_flash_attention_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor logsumexp, "
        "Tensor cum_seq_q, Tensor cum_seq_k, SymInt max_q, SymInt max_k, float dropout_p, bool is_causal, Tensor rng_state, "
        "Tensor unused, *, float? scale=None) -> (Tensor, Tensor, Tensor)",
    ),
}
"""For each kind of device the operations called here, with the arguments that are given to them."""


@cache
def devices_with_kernels() -> frozenset[str]:
    """The kinds of device whose operations have the expected signatures; a warning for each that has not."""
    changed = {device: [name_of(s) for s in schemas if not has_signature(s)] for device, schemas in EXPECTED.items()}
    for device, names in changed.items():
        if names:
            log.warning(
                "torch %s has no %s as this version knows it: packed rows are computed with masks on %s, which is slower",
                torch.__version__,
                " and no ".join(names),
                device,
            )
    return frozenset(device for device, names in changed.items() if not names)


def name_of(schema: str) -> str:
    return schema.partition("(")[0]


def has_signature(schema: str, namespace: str = "aten") -> bool:
    """Whether there is an operation of this signature; it may have more arguments behind these if they have defaults."""
    try:
        found = getattr(getattr(torch.ops, namespace), name_of(schema)).default._schema
        return bool(found.is_backward_compatible_with(torch._C.parse_schema(f"{namespace}::{schema}")))
    except (AttributeError, RuntimeError):  # no such operation, or a schema that this PyTorch cannot read
        return False


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
