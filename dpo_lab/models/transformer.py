"""A decoder-only transformer from x-transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from einops import rearrange
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from x_transformers import Decoder, TransformerWrapper

from dpo_lab.artifacts.tensors import storable
from dpo_lab.models.base import MODELS, ModelSpec
from dpo_lab.models.kv_cache import BufferedDecoding, cache_bytes
from dpo_lab.scoring.attention import PackedRow, with_tree_attention
from dpo_lab.scoring.layouts import ForwardCost


class TransformerPolicy(nn.Module):
    """An x-transformers decoder whose body, head and cached decoding can be called on their own."""

    def __init__(self, net: TransformerWrapper) -> None:
        super().__init__()
        self.net = net
        self.max_seq_len: int = net.max_seq_len

    def forward(self, tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r n v"]:
        return self.head(self.hidden(tokens))

    def hidden(self, tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r n d"]:
        return self.net(tokens, return_embeddings=True)

    def head(self, hidden: Float[Tensor, "*s d"]) -> Float[Tensor, "*s v"]:
        return self.net.to_logits(hidden)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Weight matrices between embedding and head."""
        return [parameter for parameter in self.net.attn_layers.parameters() if parameter.ndim == 2]

    def decoding(self, starts: Int[Tensor, " r"], width: int) -> BufferedDecoding:
        return BufferedDecoding(self.net, starts, width)

    def cache_bytes(self, width: int) -> int:
        return cache_bytes(self.net, width)

    def blocks(self) -> list[nn.Module]:
        """Attention and feedforward of each layer, without the norms and residuals around them."""
        return [block for _, block, _ in self.net.attn_layers.layers]

    def parts(self) -> list[nn.Module]:
        """The blocks and the norms."""
        norms = [norm for of_layer, _, _ in self.net.attn_layers.layers for norm in of_layer if norm is not None]
        return [*self.blocks(), *norms, self.net.attn_layers.final_norm]

    def forward_cost(self) -> ForwardCost:
        return self._forward_cost

    @cached_property
    def _forward_cost(self) -> ForwardCost:
        layers = self.net.attn_layers
        per_pair = 2 * layers.num_attn_layers * layers.attn_heads * layers.attn_dim_head  # queries by keys, then by values
        per_token = sum(matrix.numel() for matrix in self.hidden_matrices())
        return ForwardCost(per_token, per_pair, self.max_seq_len if isinstance(self.net.pos_emb, nn.Module) else None)

    @property
    def head_size(self) -> int:
        """Number of weights in the head."""
        return int(self.net.num_tokens * self.net.attn_layers.dim)

    def hidden_branches(
        self, tokens: Int[Tensor, "b n"], positions: Int[Tensor, "b n"], visible: Bool[Tensor, "b n n"]
    ) -> Float[Tensor, "b n d"]:
        """Hidden states where token i attends to the tokens j <= i with visible[i, j], and stands at positions[i]."""
        if any(getattr(module, "max_attend_past", None) is not None for module in self.net.modules()):
            raise ValueError("attn_max_attend_past counts places in a row, other candidates included")
        mask = rearrange(visible, "b i j -> b 1 i j")
        return self.net(tokens, pos=positions, attn_mask=mask, return_embeddings=True)

    def hidden_packed(self, tokens: Int[Tensor, " n"], positions: Int[Tensor, " n"], row: PackedRow) -> Float[Tensor, "n d"]:
        """Hidden states of prompts and their candidates in one row, each token at its position in its own text."""
        one_row, at = (rearrange(t, "n -> 1 n") for t in (tokens, positions))
        hidden = with_tree_attention(row, lambda: self.net(one_row, pos=at, return_embeddings=True))
        return rearrange(hidden, "1 n d -> n d")


class FeedForward(Enum):
    """Feed-forward nonlinearity: gated SiLU (three matrices instead of two), squared ReLU, or GELU."""

    swiglu = "swiglu"
    relu2 = "relu2"
    gelu = "gelu"


class Positions(Enum):
    """Position encoding: rotated keys and queries, a penalty on distance, a learned table, or none."""

    rotary = "rotary"
    alibi = "alibi"
    learned = "learned"
    none = "none"


class Norm(Enum):
    """Normalisation in front of each block."""

    rmsnorm = "rmsnorm"
    layernorm = "layernorm"


@MODELS.register
@dataclass
class TransformerSpec(ModelSpec):
    """A pre-norm decoder of x-transformers, fitted by the run itself."""

    name: str = "transformer"
    dim: int = 128
    """Width of the residual stream."""
    depth: int = 3
    """Layers."""
    heads: int = 4
    """Query heads of each layer."""
    kv_heads: int | None = None
    """Heads of keys and values, shared by groups of query heads; None: as many as heads."""
    context: int = 128
    """Tokens that the model can read: prompt and completion together."""
    dropout: float = 0.0
    """In attention and feed-forward blocks. Off in training unless trainer.dropout=true."""
    positions: Positions = Positions.rotary
    """How the model knows the order of tokens."""
    norm: Norm = Norm.rmsnorm
    """The normalisation in front of each block."""
    feedforward: FeedForward = FeedForward.swiglu
    """The activation of the feed-forward blocks."""
    feedforward_factor: float = 4.0
    """Inner width of the feed-forward blocks, as a multiple of dim."""
    qk_norm: bool = False
    """Queries and keys of unit length, scaled by learned numbers. Henry et al. 2020, arXiv:2010.04245."""
    flash: bool = True
    """PyTorch's fused attention, whose memory does not grow with the square of the length."""
    tie_embedding: bool = False
    """Use the token embedding as the head."""

    def __post_init__(self) -> None:
        for field in ("dim", "depth", "heads", "context"):
            if getattr(self, field) < 1:
                raise ValueError(f"model.{field} must be at least 1, got {getattr(self, field)}")
        if self.dim % self.heads:
            raise ValueError(f"model.dim must be a multiple of model.heads, got {self.dim} and {self.heads}")
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise ValueError(f"model.heads must be a multiple of model.kv_heads, got {self.heads} and {self.kv_heads}")
        if self.positions is Positions.rotary and self.dim // self.heads < 6:  # half of a head's dimensions turn, in pairs
            raise ValueError(f"model.dim / model.heads must be at least 6, got {self.dim} / {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")
        if not self.feedforward_factor > 0:
            raise ValueError(f"model.feedforward_factor must be > 0, got {self.feedforward_factor}")

    def build(self, vocab_size: int) -> TransformerPolicy:
        layers = Decoder(verbose=False, **self.decoder_options())  # it warns of rotary dimensions under 32: small heads
        return TransformerPolicy(TransformerWrapper(attn_layers=layers, **self.wrapper_options(vocab_size)))

    def export(self, module: nn.Module, directory: Path, merge: bool) -> None:
        """model.safetensors with x-transformers' names, and in x_transformers.json the arguments to build the network with."""
        assert isinstance(module, TransformerPolicy)
        save_file(storable(module.net.state_dict()), directory / "model.safetensors")
        options = {"decoder": self.decoder_options(), "wrapper": self.wrapper_options(module.net.num_tokens)}
        (directory / "x_transformers.json").write_text(json.dumps(options, indent=1))

    def decoder_options(self) -> dict[str, Any]:
        """Arguments of `x_transformers.Decoder`."""
        grouped = {} if self.kv_heads is None else {"attn_kv_heads": self.kv_heads}
        return {
            "dim": self.dim,
            "depth": self.depth,
            "heads": self.heads,
            "attn_dim_head": self.dim // self.heads,
            **grouped,
            "attn_flash": self.flash,
            "attn_qk_norm": self.qk_norm,
            "attn_qk_norm_dim_scale": self.qk_norm,
            "rotary_pos_emb": self.positions is Positions.rotary,
            "alibi_pos_bias": self.positions is Positions.alibi,
            "use_rmsnorm": self.norm is Norm.rmsnorm,
            "ff_mult": self.feedforward_factor,
            "ff_glu": self.feedforward is FeedForward.swiglu,
            "ff_swish": self.feedforward is FeedForward.swiglu,
            "ff_relu_squared": self.feedforward is FeedForward.relu2,
            "ff_no_bias": True,
            "layer_dropout": 0.0,
            "attn_dropout": self.dropout,
            "ff_dropout": self.dropout,
        }

    def wrapper_options(self, vocab_size: int) -> dict[str, Any]:
        """Arguments of `x_transformers.TransformerWrapper` beside the layers."""
        return {
            "num_tokens": vocab_size,
            "max_seq_len": self.context,
            "tie_embedding": self.tie_embedding,
            "use_abs_pos_emb": self.positions is Positions.learned,
        }
