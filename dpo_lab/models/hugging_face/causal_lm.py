"""A Hugging Face causal language model like every other model here: body, head, layouts and cached decoding."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from dpo_lab.models.hugging_face.decoding import CachedDecoding
from dpo_lab.models.hugging_face.head import without_body
from dpo_lab.models.hugging_face.language_model import LanguageModel
from dpo_lab.scoring.attention import PackedRow, with_tree_attention
from dpo_lab.scoring.layouts import ForwardCost
from dpo_lab.scoring.logps import evaluating
from dpo_lab.seeding import generator

HEAD_DIFFERENCE = 1e-4
"""Relative, in float32: a head that is applied otherwise than by the model itself is off by far more."""


class CausalLM(LanguageModel):
    """A network of body and head, which runs in every layout and decodes with a cache of keys and values."""

    def __init__(self, net: PreTrainedModel) -> None:
        super().__init__(net)
        self._head = [without_body(net)]  # in a list: no module of its own

    def hidden(self, tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r n d"]:
        return self.body()(input_ids=tokens, use_cache=False)[0]

    def head(self, hidden: Float[Tensor, "*s d"]) -> Float[Tensor, "*s v"]:
        rows = rearrange(hidden.reshape(-1, hidden.shape[-1]), "t d -> 1 t d")
        return self._head[0](inputs_embeds=rows, use_cache=False).logits.reshape(*hidden.shape[:-1], -1)

    def hidden_branches(
        self, tokens: Int[Tensor, "b n"], positions: Int[Tensor, "b n"], visible: Bool[Tensor, "b n n"]
    ) -> Float[Tensor, "b n d"]:
        """Hidden states where token i attends to the tokens j <= i with visible[i, j], and stands at positions[i]."""
        mask = self.masks(visible.tril(), rearrange(positions, "b i -> b i 1") - rearrange(positions, "b j -> b 1 j"))
        return self.body()(input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=False)[0]

    def hidden_packed(self, tokens: Int[Tensor, " n"], positions: Int[Tensor, " n"], row: PackedRow) -> Float[Tensor, "n d"]:
        """Hidden states of prompts and their candidates in one row, each token at its position in its own text."""
        if self._window is not None:
            raise ValueError(f"its layers see {self._window} tokens of a row, other candidates included")
        one_row, at = (rearrange(t, "n -> 1 n") for t in (tokens, positions))
        given = {"position_ids": at, "attention_mask": row.placeholder_mask(), "use_cache": False}
        return rearrange(with_tree_attention(row, lambda: self.body()(input_ids=one_row, **given)[0]), "1 n d -> n d")

    def masks(self, visible: Bool[Tensor, "b n c"], distance: Int[Tensor, "b n c"]) -> Any:
        """The network's attention mask in the form it takes; one for each kind of layer if it has several.

        Raises ValueError for kinds of attention other than full and windowed.
        """
        config = self.net.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if unknown := kinds - {"full_attention", "sliding_attention"}:
            raise ValueError(f"{type(self.net).__name__} has layers of {min(unknown)}")
        near = visible if self._window is None else visible & (distance < self._window)
        if len(kinds) == 2:
            return {"full_attention": self._mask(visible), "sliding_attention": self._mask(near)}
        return self._mask(near)

    @property
    def _window(self) -> int | None:
        """Width of the attention window of those layers that have one; None where none has."""
        config = self.net.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        return getattr(config, "sliding_window", None) if kinds is None or "sliding_attention" in kinds else None

    def _mask(self, visible: Bool[Tensor, "b n c"]) -> Tensor:
        mask = rearrange(visible, "b n c -> b 1 n c")
        if self.net.config._attn_implementation == "sdpa":
            return mask
        return torch.zeros_like(mask, dtype=self.net.dtype).masked_fill(~mask, torch.finfo(self.net.dtype).min)

    def decoding(self, starts: Int[Tensor, " r"], width: int) -> CachedDecoding:
        return CachedDecoding(self, starts, width)

    def cache_bytes(self, width: int) -> int:
        heads, dim_head = self._heads
        heads = getattr(self.net.config.get_text_config(), "num_key_value_heads", None) or heads
        return 2 * len(self.blocks()) * heads * dim_head * width * int(self.net.dtype.itemsize)

    def forward_cost(self) -> ForwardCost:
        return self._forward_cost

    @cached_property
    def _forward_cost(self) -> ForwardCost:
        heads, dim_head = self._heads
        per_token = sum(weight.numel() for block in self.blocks() for weight in block.parameters() if weight.ndim == 2)
        return ForwardCost(per_token, 2 * len(self.blocks()) * heads * dim_head)

    @property
    def head_size(self) -> int:
        """Number of weights in the head."""
        return int(self.net.get_output_embeddings().weight.numel())

    @property
    def _heads(self) -> tuple[int, int]:
        """Number of query heads in a layer, and their width; 0 heads where it has no attention."""
        config = self.net.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None) or 0
        return heads, getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)


def wrap_network(net: PreTrainedModel) -> LanguageModel:
    """The network as a `CausalLM`, if its body and head make the logits that it makes itself; else as a `LanguageModel`."""
    try:
        model = CausalLM(net)
        if _head_is_right(model):
            return model
    except Exception:  # any network, any error: its logits are enough
        pass
    return LanguageModel(net)


@torch.no_grad()
def _head_is_right(model: CausalLM) -> bool:
    vocabulary = model.net.get_input_embeddings().weight
    tokens = torch.randint(len(vocabulary), (2, 5), generator=generator(0, "trying a network")).to(vocabulary.device)
    with evaluating(model):
        expected, logits = model(tokens), model.head(model.hidden(tokens))
    same_shape = expected.shape == logits.shape
    return same_shape and bool((expected - logits).norm() <= HEAD_DIFFERENCE * expected.norm())
