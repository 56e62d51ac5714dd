"""Tensors as safetensors stores them, and digests of their bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors detached, on the CPU and contiguous, as safetensors requires."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def each_once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without duplicates: of those that share memory, as tied weights do, only the first."""
    seen: set[tuple[int, torch.Size]] = set()
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in seen or tensor.numel() == 0:
            seen.add(place)
            kept[name] = tensor
    return kept


def tensor_digest(tensor: Tensor) -> str:
    """The sha256 of dtype, shape and every bit, in 64 hexadecimal digits."""
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)  # not copied
    return digest.hexdigest()
