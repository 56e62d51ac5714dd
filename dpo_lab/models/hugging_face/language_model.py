"""A Hugging Face language model of which only the logits are used: the fallback for networks whose head does not come off."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from dpo_lab.artifacts.tensors import each_once


class LanguageModel(nn.Module):
    """A network that maps tokens to logits, and nothing else is known of it.

    Its state dict names weights as the network's own files do, each tied one once. Under an adapter it holds the adapter's
    only: the others are the same in every copy.
    """

    fixed_context = True
    """No setting makes it longer."""
    source = ""
    """A digest of the files that the weights under an adapter come from."""

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
        """Load what `state_dict` gave. Raises ValueError where that is of another network."""
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
        """The layers. Raises ValueError where they are not found: no list of modules is as long as the network is deep."""
        depth = self.net.config.get_text_config().num_hidden_layers
        for module in self.body().modules():
            if isinstance(module, nn.ModuleList) and len(module) == depth:
                return list(module)
        raise ValueError(
            f"{type(self.net).__name__} has no list of {depth} layers; leave compute.checkpointing and compute.compile out"
        )

    def parts(self) -> list[nn.Module]:
        return self.blocks()
