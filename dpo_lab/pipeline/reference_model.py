"""The reference's network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dpo_lab.models.copies import freeze
from dpo_lab.models.policies import Policy, load_any_policy
from dpo_lab.training.references import ReferenceSpec


def reference_model(spec: ReferenceSpec, base: Policy, key: str) -> tuple[nn.Module, str]:
    """The reference's network and a key that stands for its weights: the base itself, a copy that may move, or another policy.

    Raises ValueError for another policy with another tokenizer.
    """
    path = spec.weights()
    device = next(base.module.parameters()).device
    if path is not None:
        other, other_key = _read(path)
        if other.tokenizer.backend.get_vocab() != base.tokenizer.backend.get_vocab():
            raise ValueError(f"reference.path: {path} has another vocabulary than the policy: their scores cannot be compared")
        return freeze(other.module.to(device)), other_key
    if spec.moves:
        return freeze(base.copy(device)), key
    return freeze(base.module), key


def _read(path: Path) -> tuple[Policy, str]:
    try:
        return load_any_policy(path)
    except ValueError as error:
        raise ValueError(str(error).replace("model.path", "reference.path")) from error
