"""The state of a training as named tensors: a resumed run continues from them bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpo_lab.artifacts.tensors import each_once

State = dict[str, Tensor]


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    """The part of `state` whose names `prefixed` put under `prefix`."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def weights_of(module: nn.Module) -> State:
    """The module's tensors by name, tied ones once."""
    return each_once(module.state_dict())


def set_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy what `weights_of` returned into the module. Raises ValueError for the weights of another model."""
    own = weights_of(module)
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError("the checkpoint's weights are not those of this model")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def numbers(values: Mapping[str, float | int]) -> State:
    """Numbers as tensors of float64, which holds every float and every count exactly."""
    return {name: torch.as_tensor(value, dtype=torch.float64, device="cpu") for name, value in values.items()}


def loss_state(values: Mapping[str, float | Tensor]) -> State:
    """A loss's state for a checkpoint: numbers as scalars of float64, tensors (a loss keeps them on its device) as vectors."""
    plain = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
    return numbers(plain) | {name: value.reshape(1) for name, value in values.items() if isinstance(value, Tensor)}


def loss_values(state: Mapping[str, Tensor], device: torch.device) -> dict[str, float | Tensor]:
    """What `loss_state` was given: tensors stay tensors, as a float would compute other last bits."""
    return {name: value.reshape(()).to(device) if value.ndim else float(value) for name, value in state.items()}


def random_state(device: torch.device) -> State:
    """The states of the generators that dropout draws from."""
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def optimizer_state(policy: nn.Module, optimizers: Sequence[Optimizer]) -> State:
    """The optimisers' moments and counters, by parameter; learning rates are not kept, as they follow from the step."""
    names = _names(policy)
    return {
        f"{names[parameter]}.{kind}": value
        for optimizer in optimizers
        for parameter, entries in optimizer.state.items()
        for kind, value in entries.items()
        if value is not None  # the momentum that SGD without momentum does not have
    }


def set_optimizer_state(policy: nn.Module, optimizers: Sequence[Optimizer], state: Mapping[str, Tensor]) -> None:
    """Take over what `optimizer_state` returned."""
    entries: dict[str, State] = {}
    for key, value in state.items():
        name, _, kind = key.rpartition(".")
        entries.setdefault(name, {})[kind] = value
    names = _names(policy)
    for optimizer in optimizers:
        order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
        by_position = {i: entries.pop(name) for i, name in enumerate(order) if name in entries}
        optimizer.load_state_dict({"state": by_position, "param_groups": optimizer.state_dict()["param_groups"]})
    assert not entries, f"entries of no parameter: {sorted(entries)}"


def _names(policy: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in policy.named_parameters()}
