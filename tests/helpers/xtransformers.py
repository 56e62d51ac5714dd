"""x-transformers models of every make, as small as they come, and the layouts that are right for each."""

from __future__ import annotations

from typing import Any

import torch
from batches import comparison
from x_transformers import Decoder, TransformerWrapper

from dpo_lab.models.transformer import TransformerPolicy
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import ALL_LAYOUTS, Layout

VOCAB, CONTEXT = 11, 32

LAYERS: dict[str, dict[str, Any]] = {
    "rotary": {"rotary_pos_emb": True},
    "learned positions": {},
    "no positions": {"disable_abs_pos_emb": True},
    "grouped queries": {"rotary_pos_emb": True, "attn_kv_heads": 1},
    "qk_norm": {"rotary_pos_emb": True, "attn_qk_norm": True},
    "xpos": {"rotary_xpos": True},
    "alibi": {"alibi_pos_bias": True},
    "swiglu and rmsnorm": {"rotary_pos_emb": True, "ff_glu": True, "ff_swish": True, "use_rmsnorm": True},
    "residual streams": {"rotary_pos_emb": True, "num_residual_streams": 2},
    "value residual": {"rotary_pos_emb": True, "add_value_residual": True},
    "default attention": {"rotary_pos_emb": True, "attn_flash": False},
    "memory keys and values": {"rotary_pos_emb": True, "attn_num_mem_kv": 2},
    "a window": {"rotary_pos_emb": True, "attn_max_attend_past": 40},
    "shifted tokens": {"rotary_pos_emb": True, "shift_tokens": 1},
    "T5 bias": {"rel_pos_bias": True, "attn_flash": False},
    "dynamic bias": {"dynamic_pos_bias": True, "attn_flash": False},
    "a layerscale of almost 0": {
        "rotary_pos_emb": True,
        "shift_tokens": 1,
        "use_layerscale": True,
        "layerscale_init_value": 1e-5,
    },
    "branches that begin at 0": {"shift_tokens": 1, "zero_init_branch_output": True},
}
WRAPPERS: dict[str, dict[str, Any]] = {
    "scaled sinusoidal": {"scaled_sinu_pos_emb": True},
    "memory tokens": {"num_memory_tokens": 2},
    "tied embeddings": {"tie_embedding": True},
    "a mixture of softmaxes": {"mixture_of_softmax": True},
    "sigsoftmax": {"sigsoftmax_logits": True},
}
OPTIONS = [*LAYERS, *WRAPPERS]

NOTHING_SHARED = {"shifted tokens", "memory tokens", "a layerscale of almost 0", "branches that begin at 0"}
NO_BRANCHES = {"memory keys and values", "a window", "T5 bias", "dynamic bias", "scaled sinusoidal"}
NOT_PACKED = NO_BRANCHES | {"default attention", "alibi"}
NO_HEAD = {"a mixture of softmaxes", "sigsoftmax"}


def exact(option: str) -> set[Layout]:
    """The layouts that are right for a model; none where not even the head comes off."""
    if option in NO_HEAD:
        return set()
    if option in NOTHING_SHARED:
        return {Layout.rows}
    wrong = {Layout.branches: NO_BRANCHES, Layout.packed: NOT_PACKED}
    return {layout for layout in ALL_LAYOUTS if option not in wrong.get(layout, ())}


EXACT = {option: exact(option) for option in OPTIONS}


def network(option: str, context: int = CONTEXT, depth: int = 2) -> TransformerWrapper:
    """In float64, where the model can. Weights are as x-transformers draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = {"attn_flash": True, **LAYERS.get(option, {"rotary_pos_emb": option != "scaled sinusoidal"})}
        layers = Decoder(dim=16, depth=depth, heads=2, attn_dim_head=8, verbose=False, **given)
        net = TransformerWrapper(num_tokens=VOCAB, max_seq_len=context, attn_layers=layers, **WRAPPERS.get(option, {}))
        return net if option == "dynamic bias" else net.double()


def model(option: str, **sizes: int) -> TransformerPolicy:
    return TransformerPolicy(network(option, **sizes))


def drawn(k: int, shortest: int = 2, seed: int = 0) -> CandidateBatch:
    """Six prompts of unequal length; completions of 1 to 6 tokens, one of one token and, where there are several, one empty."""
    draw = torch.Generator().manual_seed(seed)

    def row(length: int) -> list[int]:
        return torch.randint(VOCAB, (length,), generator=draw).tolist()

    prompts = [row(length) for length in (shortest, 9, 3, 3, 7, shortest)]
    lengths = torch.randint(2, 7, (k, 6), generator=draw)
    lengths[0, 1], lengths[-1, 2] = 1, int(k == 1)
    return comparison(prompts, [[row(int(length)) for length in of_candidate] for of_candidate in lengths])
