"""A Hugging Face causal language model as every other model here: tokens to logits, and its body, head and cache on their own.

Only what needs transformers imports this.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from dpo_lab.artifacts.tensors import each_once
from dpo_lab.models.hugging_face.caches import buffering
from dpo_lab.scoring.attention import PackedRow, with_tree_attention
from dpo_lab.scoring.layouts import ForwardCost
from dpo_lab.scoring.logps import evaluating
from dpo_lab.seeding import generator

HEAD_DIFFERENCE = 1e-4
"""Relative, in float32: a head that is applied otherwise than by the model itself is off by far more."""


class LanguageModel(nn.Module):
    """A network of which nothing is known but that it makes logits of tokens.

    Its weights are named as in the network's own files, each tied one once. Those that are not trained, under an adapter, are
    not in its state: they are the same in every copy.
    """

    source = ""
    """Stands for the files that the weights under an adapter come from."""

    def __init__(self, net: PreTrainedModel) -> None:
        super().__init__()
        self.net = net
        self.max_seq_len: int | None = getattr(net.config.get_text_config(), "max_position_embeddings", None)

    def forward(self, tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r n v"]:
        return self.net(input_ids=tokens, use_cache=False).logits

    @cached_property
    def trained(self) -> frozenset[str]:
        """Names of the weights that training moves: all of them, or an adapter's."""
        adapter = [name for name, _ in self.net.named_parameters() if ".lora_" in name]
        return frozenset(adapter or [name for name, _ in self.net.named_parameters()])

    def fixed(self) -> list[Tensor]:
        """The weights that no training moves: copies share them."""
        return [weight for name, weight in self.net.named_parameters() if name not in self.trained]

    # nn.Module overloads it by options, which do nothing here.
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        every = self.net.state_dict()
        own = self.trained & every.keys() if self.fixed() else every.keys()
        return {name: tensor for name, tensor in each_once(every).items() if name in own}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over what `state_dict` gave. Raises ValueError where that is of another network."""
        expected = self.state_dict()
        for what, names in (("no", expected.keys() - state_dict.keys()), ("an unknown", state_dict.keys() - expected.keys())):
            if names:
                raise ValueError(f"these weights are of another network: they hold {what} '{min(names)}'")
        return self.net.load_state_dict(state_dict, strict=False, assign=assign)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weight matrices between embedding and head that are trained."""
        parameters = (parameter for block in self.blocks() for parameter in block.parameters())
        return [parameter for parameter in parameters if parameter.ndim == 2 and parameter.requires_grad]

    def body(self) -> nn.Module:
        return self.net.base_model

    def blocks(self) -> list[nn.Module]:
        """The layers. Raises ValueError where the network has them at no usual place."""
        depth = self.net.config.get_text_config().num_hidden_layers
        for module in self.body().modules():
            if isinstance(module, nn.ModuleList) and len(module) == depth:
                return list(module)
        raise ValueError(
            f"{type(self.net).__name__} has no list of {depth} layers; leave compute.checkpointing and compute.compile out"
        )

    def parts(self) -> list[nn.Module]:
        return self.blocks()


class CausalLM(LanguageModel):
    """A network of body and head, which can go on from keys and values."""

    def __init__(self, net: PreTrainedModel) -> None:
        super().__init__(net)
        # The network as it is, scaling and caps of its logits included, but for a body that passes hidden states on.
        headed = copy.copy(net)
        headed._modules = {**net._modules, net.base_model_prefix: _Passed()}
        self._headed = [headed]  # in a list: no module of its own

    def hidden(self, tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r n d"]:
        return self.body()(input_ids=tokens, use_cache=False)[0]

    def head(self, hidden: Float[Tensor, "*s d"]) -> Float[Tensor, "*s v"]:
        rows = rearrange(hidden.reshape(-1, hidden.shape[-1]), "t d -> 1 t d")
        return self._headed[0](inputs_embeds=rows, use_cache=False).logits.reshape(*hidden.shape[:-1], -1)

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
        """What the network takes as its attention mask, for each kind of its layers if it has several.

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
        """How far back those layers see that do not see everything; None where all do."""
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
        """Weights of the head."""
        return int(self.net.get_output_embeddings().weight.numel())

    @property
    def _heads(self) -> tuple[int, int]:
        """How many queries a layer has, and how wide they are; nothing where it has no attention."""
        config = self.net.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None) or 0
        return heads, getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)


class CachedDecoding:
    """Rows under way. Row r begins at column `starts[r]`; what it is fed before that is padding."""

    def __init__(self, model: CausalLM, starts: Int[Tensor, " r"], width: int) -> None:
        self.model = model
        self.starts = starts
        self.column = 0
        self.padded = bool(starts.any())
        self.cache = buffering(width)

    def read(self, tokens: Int[Tensor, "r n"]) -> Float[Tensor, "r v"]:
        """Logits after the last of `tokens`, which follow those read before."""
        end = self.column + tokens.shape[1]
        given = self._padding(end) if self.padded else {}
        hidden = self.model.body()(input_ids=tokens, past_key_values=self.cache, use_cache=True, **given)[0]
        self.column = end
        return self.model.head(hidden[:, -1])

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Go on with these rows in their place, each given once, several times or not at all."""
        self.starts = self.starts[rows]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]

    def _padding(self, end: int) -> dict[str, Any]:
        at = torch.arange(self.column, end, device=self.starts.device)
        seen = torch.arange(end, device=self.starts.device)
        behind = rearrange(at, "n -> n 1") - seen
        # Padding sees itself: some kernels make nan of nothing, and what nobody sees must not be nan either.
        own = (seen >= rearrange(self.starts, "r -> r 1 1")) | (behind == 0)
        positions = (at - rearrange(self.starts, "r -> r 1")).clamp(min=0)
        mask = self.model.masks(own & (behind >= 0), behind.expand(len(self.starts), -1, -1))
        return {"position_ids": positions, "attention_mask": mask}


class _Passed(nn.Module):
    """A body that has been run already."""

    def forward(self, *given: Any, inputs_embeds: Tensor, **named: Any) -> BaseModelOutputWithPast:
        return _HiddenStates(last_hidden_state=inputs_embeds)

    @property
    def decoder(self) -> _Passed:
        """Where some networks keep their body's body."""
        return self


class _HiddenStates(BaseModelOutputWithPast):
    """The output of a body, whatever else its head asks it for."""

    def __getattr__(self, name: str) -> None:
        return None


def adapted(net: PreTrainedModel) -> LanguageModel:
    """The network, in body and head if they make the logits that the network makes itself."""
    try:
        model = CausalLM(net)
        if _head_is_right(model):
            return model
    except Exception:  # of whatever make it is: its logits are enough
        pass
    return LanguageModel(net)


@torch.no_grad()
def _head_is_right(model: CausalLM) -> bool:
    vocabulary = model.net.get_input_embeddings().weight
    tokens = torch.randint(len(vocabulary), (2, 5), generator=generator(0, "trying a network")).to(vocabulary.device)
    with evaluating(model):
        right, found = model(tokens), model.head(model.hidden(tokens))
    return right.shape == found.shape and bool((right - found).norm() <= HEAD_DIFFERENCE * right.norm())
