"""How large a network is, and how much memory its training takes at least."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

NUMBERS_BESIDE_A_WEIGHT = 3
"""Its gradient and AdamW's two moments."""


@runtime_checkable
class HoldsFixed(Protocol):
    """A network some of whose weights are never trained: copies may share them."""

    def fixed(self) -> list[Tensor]: ...


def fixed_weights(module: nn.Module) -> list[Tensor]:
    """Weights that are never trained."""
    return module.fixed() if isinstance(module, HoldsFixed) else []


def describe_size(module: nn.Module) -> str:
    """A line such as "0.66 M parameters, 13 MiB for policy, reference, gradients and AdamW"; activations come on top."""
    fixed = fixed_weights(module)
    taken = {id(weight) for weight in fixed}
    trained = [weight for weight in module.parameters() if id(weight) not in taken]
    numbers = sum(weight.numel() for weight in trained)
    # Policy and reference share what is fixed, and have each their own of what is trained.
    needed = sum(weight.nbytes for weight in fixed) + sum(weight.nbytes for weight in trained) * (2 + NUMBERS_BESIDE_A_WEIGHT)
    part = f" ({numbers / 1e6:.2f} M of them trained)" if fixed else ""
    total = numbers + sum(weight.numel() for weight in fixed)
    return f"{total / 1e6:,.2f} M parameters{part}, {_bytes(needed)} for policy, reference, gradients and AdamW"


def _bytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
