"""Tensors by name as they are stored: where safetensors takes them, each once, and what stands for their bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without their graphs, in main memory and without gaps."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def each_once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of tensors that share their memory, as tied weights do, the one that is named first."""
    seen: set[tuple[int, torch.Size]] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in seen or tensor.numel() == 0:
            seen.add(place)
            found[name] = tensor
    return found


def tensor_digest(tensor: Tensor) -> str:
    """64 hexadecimal digits that depend on dtype, shape and every bit."""
    found = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)  # not copied
    return found.hexdigest()
