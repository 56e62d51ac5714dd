"""A network's head on its own: the network itself, its body replaced by one that hands hidden states on."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast


def without_body(net: PreTrainedModel) -> PreTrainedModel:
    """The network on the same weights, for `inputs_embeds` that are hidden states: scaling and caps of its logits included."""
    headed = copy.copy(net)
    headed._modules = {**net._modules, net.base_model_prefix: _Identity()}
    return headed


class _Identity(nn.Module):
    """A body that returns its input."""

    def forward(self, *given: Any, inputs_embeds: Tensor, **named: Any) -> BaseModelOutputWithPast:
        return _HiddenStates(last_hidden_state=inputs_embeds)

    @property
    def decoder(self) -> _Identity:
        """Where some networks look for their body's body."""
        return self


class _HiddenStates(BaseModelOutputWithPast):
    """The output of a body; None for whatever else a head asks of it."""

    def __getattr__(self, name: str) -> None:
        return None
