"""A decoder-only transformer from x-transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from x_transformers import Decoder, TransformerWrapper

from dpo_lab.layouts import Work
from dpo_lab.models.base import MODELS, ModelSpec
from dpo_lab.models.decoding import BufferedDecoding, cache_bytes


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
        """The weight matrices between embedding and head."""
        return [parameter for parameter in self.net.attn_layers.parameters() if parameter.ndim == 2]

    def decoding(self, starts: Int[Tensor, " r"], width: int) -> BufferedDecoding:
        return BufferedDecoding(self.net, starts, width)

    def cache_bytes(self, width: int) -> int:
        return cache_bytes(self.net, width)

    def body(self) -> nn.Module:
        """Everything between embedding and head."""
        return self.net.attn_layers

    def blocks(self) -> list[nn.Module]:
        """Attention and feedforward of each layer, without the norms and residuals around them."""
        return [block for _, block, _ in self.net.attn_layers.layers]

    def work(self) -> Work:
        return self._work

    @cached_property
    def _work(self) -> Work:
        layers = self.net.attn_layers
        of_pair = 2 * layers.num_attn_layers * layers.attn_heads * layers.attn_dim_head  # queries by keys, then by values
        of_token = sum(matrix.numel() for matrix in self.hidden_matrices())
        return Work(of_token, of_pair, self.max_seq_len if isinstance(self.net.pos_emb, nn.Module) else None)

    @property
    def head_size(self) -> int:
        """Weights of the head."""
        return int(self.net.num_tokens * self.net.attn_layers.dim)

    def hidden_of_branches(
        self, tokens: Int[Tensor, "b n"], positions: Int[Tensor, "b n"], visible: Bool[Tensor, "b n n"]
    ) -> Float[Tensor, "b n d"]:
        """Hidden states where token i attends to the tokens j <= i with visible[i, j], and stands at positions[i]."""
        if any(getattr(module, "max_attend_past", None) is not None for module in self.net.modules()):
            raise ValueError("attn_max_attend_past counts places in a row, other candidates included")
        mask = rearrange(visible, "b i j -> b 1 i j")
        return self.net(tokens, pos=positions, attn_mask=mask, return_embeddings=True)

    def read(self, tokens: Int[Tensor, "b n"]) -> Any:
        """The state after tokens, for `hidden_after`."""
        return self.net(tokens, return_embeddings_and_intermediates=True)[1]

    def hidden_after(self, state: Any, rows: Int[Tensor, " r"], tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r n d"]:
        """Hidden states of tokens that follow those of the given rows of the state."""

        def chosen(cached: Tensor | None) -> Tensor | None:
            return None if cached is None else cached.index_select(0, rows)

        layers = [replace(layer, cached_kv=tuple(map(chosen, layer.cached_kv))) for layer in state.attn_intermediates]
        cache = replace(state, attn_intermediates=layers)
        return self.net(tokens, cache=cache, cache_age=tokens.shape[1], input_not_include_cache=True, return_embeddings=True)


class FeedForward(Enum):
    """The nonlinearity between the two matrices of a block: gated SiLU (three matrices), or squared ReLU."""

    swiglu = "swiglu"
    relu2 = "relu2"


@MODELS.register
@dataclass
class TransformerSpec(ModelSpec):
    """Pre-norm decoder with rotary positions, RMS norm and flash attention."""

    name: str = "transformer"
    dim: int = 128
    depth: int = 3
    heads: int = 4
    context: int = 128
    """Tokens that the model can read: prompt and completion together."""
    dropout: float = 0.0
    feedforward: FeedForward = FeedForward.swiglu
    tie_embedding: bool = False
    """Use the token embedding as the head."""

    def __post_init__(self) -> None:
        for field in ("dim", "depth", "heads", "context"):
            if getattr(self, field) < 1:
                raise ValueError(f"model.{field} must be at least 1, got {getattr(self, field)}")
        if self.dim % self.heads:
            raise ValueError(f"model.dim must be a multiple of model.heads, got {self.dim} and {self.heads}")
        if self.dim // self.heads < 6:  # rotary positions turn half of a head's dimensions, in pairs
            raise ValueError(f"model.dim / model.heads must be at least 6, got {self.dim} / {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")

    def build(self, vocab_size: int) -> TransformerPolicy:
        layers = Decoder(
            dim=self.dim,
            depth=self.depth,
            heads=self.heads,
            attn_dim_head=self.dim // self.heads,
            attn_flash=True,
            rotary_pos_emb=True,
            verbose=False,  # it warns of rotary dimensions under 32, which small heads cannot have
            use_rmsnorm=True,
            ff_glu=self.feedforward is FeedForward.swiglu,
            ff_swish=self.feedforward is FeedForward.swiglu,
            ff_relu_squared=self.feedforward is FeedForward.relu2,
            ff_no_bias=True,
            layer_dropout=0.0,
            attn_dropout=self.dropout,
            ff_dropout=self.dropout,
        )
        return TransformerPolicy(
            TransformerWrapper(
                num_tokens=vocab_size,
                max_seq_len=self.context,
                attn_layers=layers,
                tie_embedding=self.tie_embedding,
                use_abs_pos_emb=False,
            )
        )
