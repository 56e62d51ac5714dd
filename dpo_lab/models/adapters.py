"""Low-rank adapters by peft, which only this imports."""

from __future__ import annotations

import warnings

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from dpo_lab.models.lora import Lora


def lora_config(net: nn.Module, lora: Lora) -> LoraConfig:
    assert lora.rank is not None
    return LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in net.modules()),  # GPT-2 keeps its matrices transposed
        task_type="CAUSAL_LM",
    )


def add_adapter(net: nn.Module, lora: Lora) -> None:
    """Put the adapter into the network, which computes as before: B is 0. Its own weights are no longer trained.

    Raises ValueError where a name in `lora.targets` is no linear map of the network.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fan_in_fan_out, which it corrects itself where a network mixes both
        torch.manual_seed(lora.seed)
        try:
            inject_adapter_in_model(lora_config(net, lora), net)
        except ValueError as error:
            raise ValueError(f"model.lora.targets: {str(error).splitlines()[0]}") from error
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:  # small, and what is trained must not be rounded
            parameter.data = parameter.data.float()
