"""Low-rank adapters by peft, which only this imports."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from dpo_lab.artifacts.tensors import storable
from dpo_lab.models.lora import Lora
from dpo_lab.seeding import seed_torch


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
    """Insert a low-rank adapter into the network, which computes as before, for B is 0. From now on only that is trained.

    Raises ValueError where a name in `lora.targets` is no linear map of the network.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fan_in_fan_out, which it corrects itself where a network mixes both
        seed_torch(lora.seed, "adapter")
        try:
            inject_adapter_in_model(lora_config(net, lora), net)
        except ValueError as error:
            raise ValueError(f"model.lora.targets: {str(error).splitlines()[0]}") from error
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:  # small, and what is trained must not be rounded
            parameter.data = parameter.data.float()


def merge_adapter(net: nn.Module) -> None:
    """Add the adapter to the weights and take it out: the network computes the same without it."""
    for name, module in list(net.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, module.get_base_layer())


def write_adapter(net: nn.Module, lora: Lora, base: Path, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write the adapter alone, as `peft.PeftModel.from_pretrained` reads it."""
    config = lora_config(net, lora)
    config.base_model_name_or_path = str(base)
    config.target_modules = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in weights})
    config.inference_mode = True
    config.save_pretrained(directory)
    named = {f"base_model.model.{name.replace('.default.', '.')}": weight for name, weight in weights.items()}
    save_file(storable(named), directory / "adapter_model.safetensors", metadata={"format": "pt"})
