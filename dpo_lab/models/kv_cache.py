"""Token-by-token decoding of an x-transformers model, with keys and values in preallocated buffers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor
from x_transformers import TransformerWrapper
from x_transformers.x_transformers import Attention, RMSNorm


class BufferedDecoding:
    """A batch of sequences being decoded by pre-norm layers of attention and feed-forward; positions rotary, learned or none,
    queries and keys normed or not.

    Row r begins at column `starts[r]`; what it is fed before that is padding. x-transformers' own cache is copied for every
    token of every layer and its keys are rotated anew; here a token's key is rotated once and written into its column.
    Options of x-transformers that are not named above are not seen: whoever uses this compares it with `net` first.
    """

    def __init__(self, net: TransformerWrapper, starts: Int[Tensor, " r"], width: int) -> None:
        self.net = net
        self.starts = starts
        self.width = width
        self.column = 0
        self.padded = bool(starts.any())
        self.buffers: list[tuple[Tensor, Tensor]] = []
        rotary = net.attn_layers.rotary_pos_emb
        self.turns: Complex[Tensor, "w d"] | None = None
        if rotary is not None:
            angles = rotary(torch.arange(width, device=starts.device))[0][0, :, ::2]
            self.turns = torch.complex(angles.cos(), angles.sin())

    def read(self, tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r v"]:
        """Logits after the last of `tokens`, which follow those read before."""
        n, net = tokens.shape[1], self.net
        columns = torch.arange(self.column, self.column + n, device=tokens.device)
        positions = (columns - rearrange(self.starts, "r -> r 1")).clamp(min=0)
        turns = None if self.turns is None else rearrange(self.turns[positions], "r n d -> r n 1 d")
        mask = self._mask(columns) if n > 1 or self.padded else None
        x = net.project_emb(net.post_emb_norm(net.token_emb(tokens) + net.pos_emb(tokens, pos=positions)))
        layers = net.attn_layers
        attention = 0
        for kind, (norms, block, residual) in zip(layers.layer_types, layers.layers, strict=True):
            y = _normed(norms[0], x)
            if kind == "a":
                y = self._attend(block, y, attention, turns, mask)
                attention += 1
            else:
                y = block(y)
            x = residual(y, x)
        self.column += n
        return net.to_logits(_normed(layers.final_norm, x[:, -1]))

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Continue with these rows in place of the present ones; a row may be given several times, or not at all."""
        self.starts = self.starts[rows]
        self.buffers = [(keys[rows], values[rows]) for keys, values in self.buffers]

    def _mask(self, columns: Int[Tensor, " n"]) -> Bool[Tensor, "r 1 n c"]:
        """Which columns each of the given ones attends to: those of its row, up to itself."""
        # Padding sees itself: some kernels make nan of nothing, and what nobody sees must not be nan either.
        seen, at = torch.arange(self.column + len(columns), device=columns.device), rearrange(columns, "n -> n 1")
        own = (seen >= rearrange(self.starts, "r -> r 1 1 1")) | (seen == at)
        return own & (seen <= at)

    def _attend(
        self,
        block: Attention,
        x: Float[Tensor, "r n d"],
        layer: int,
        turns: Complex[Tensor, "r n 1 e"] | None,
        mask: Bool[Tensor, "r 1 n c"] | None,
    ) -> Float[Tensor, "r n d"]:
        q = rearrange(block.to_q(x), "r n (h d) -> r n h d", h=block.heads)
        k, v = (rearrange(to(x), "r n (h d) -> r n h d", h=block.kv_heads) for to in (block.to_k, block.to_v))
        if block.qk_norm:
            q, k = (
                F.normalize(t, dim=-1) * (scale if isinstance(scale, int) else rearrange(scale, "h 1 d -> h d"))
                for t, scale in ((q, block.qk_norm_q_scale), (k, block.qk_norm_k_scale))
            )
        if turns is not None:
            q, k = _rotated(q, turns), _rotated(k, turns)
        if layer == len(self.buffers):
            shapes = [(len(t), t.shape[2], self.width, t.shape[3]) for t in (k, v)]
            self.buffers.append((k.new_empty(shapes[0]), v.new_empty(shapes[1])))
        keys, values = self.buffers[layer]
        end = self.column + x.shape[1]
        keys[:, :, self.column : end] = rearrange(k, "r n h d -> r h n d")
        values[:, :, self.column : end] = rearrange(v, "r n h d -> r h n d")
        # x-transformers gives query head i the keys i modulo their number, PyTorch those of its neighbours, too.
        out = F.scaled_dot_product_attention(
            rearrange(q, "r n (g k) d -> r (k g) n d", k=block.kv_heads),
            keys[:, :, :end],
            values[:, :, :end],
            attn_mask=mask,
            scale=block.attend.scale if block.qk_norm else None,
            enable_gqa=block.kv_heads != block.heads,
        )
        return block.to_out(rearrange(out, "r (k g) n d -> r n (g k d)", k=block.kv_heads))


def cache_bytes(net: TransformerWrapper, width: int) -> int:
    """Memory that `BufferedDecoding` takes for each row."""
    weights = [
        to.weight for block in net.attn_layers.modules() if isinstance(block, Attention) for to in (block.to_k, block.to_v)
    ]
    return sum(len(weight) * weight.element_size() * width for weight in weights)


def _normed(norm: Any, x: Float[Tensor, "*r d"]) -> Float[Tensor, "*r d"]:
    if type(norm) is not RMSNorm:
        return norm(x)
    # In one call where x-transformers makes six: a fifth of the time of a small model's token.
    return F.rms_norm(x, x.shape[-1:], norm.g + float(norm.unit_offset), eps=1e-20)


def _rotated(x: Float[Tensor, "r n h d"], turns: Complex[Tensor, "r n 1 e"]) -> Float[Tensor, "r n h d"]:
    """Rotary positions: each pair of neighbouring dimensions turned as a complex number, dimensions beyond them left alone."""
    turned, rest = x[..., : 2 * turns.shape[-1]], x[..., 2 * turns.shape[-1] :]
    pairs = rearrange(turned if turned.dtype == torch.float64 else turned.float(), "r n h (e two) -> r n h e two", two=2)
    turned = rearrange(torch.view_as_real(torch.view_as_complex(pairs) * turns), "r n h e two -> r n h (e two)").to(x.dtype)
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned
