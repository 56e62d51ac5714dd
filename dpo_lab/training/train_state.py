"""What a trainer carries from step to step, as named tensors: an interrupted run goes on from them bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpo_lab.artifacts.tensors import each_once
from dpo_lab.training.metrics import Tally

State = dict[str, Tensor]


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    """The part of `state` that `prefixed` has put there."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def weights_of(module: nn.Module) -> State:
    """Of each of the module's tensors one name: tied ones have several."""
    return each_once(module.state_dict())


def set_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """What `weights_of` gave. Raises ValueError for those of another module."""
    own = weights_of(module)
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError("the checkpoint's weights are not those of this model")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def numbers(values: Mapping[str, float | int]) -> State:
    """float64, which holds every float and every count exactly."""
    return {name: torch.as_tensor(value, dtype=torch.float64, device="cpu") for name, value in values.items()}


def loss_state(values: Mapping[str, float | Tensor]) -> State:
    """Numbers as `numbers` has them; tensors of one number, which a loss keeps on its device, as vectors of one."""
    plain = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
    return numbers(plain) | {name: value.reshape(1) for name, value in values.items() if isinstance(value, Tensor)}


def loss_values(state: Mapping[str, Tensor], device: torch.device) -> dict[str, float | Tensor]:
    """What `loss_state` was given: a number computes other last bits than a tensor does."""
    return {name: value.reshape(()).to(device) if value.ndim else float(value) for name, value in state.items()}


def random_state(device: torch.device) -> State:
    """Of the generators that dropout draws from."""
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def optimizer_state(policy: nn.Module, optimizers: Sequence[Optimizer]) -> State:
    """Moments and counters, by the parameter's name; learning rates follow from the step."""
    names = _names(policy)
    return {
        f"{names[parameter]}.{what}": value
        for optimizer in optimizers
        for parameter, entries in optimizer.state.items()
        for what, value in entries.items()
        if value is not None  # the momentum that SGD without momentum does not have
    }


def set_optimizer_state(policy: nn.Module, optimizers: Sequence[Optimizer], state: Mapping[str, Tensor]) -> None:
    entries: dict[str, State] = {}
    for key, value in state.items():
        name, _, what = key.rpartition(".")
        entries.setdefault(name, {})[what] = value
    names = _names(policy)
    for optimizer in optimizers:
        plain = optimizer.state_dict()
        order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
        found = {i: entries.pop(name) for i, name in enumerate(order) if name in entries}
        optimizer.load_state_dict({"state": found, "param_groups": plain["param_groups"]})
    assert not entries, f"of no parameter: {sorted(entries)}"


def _names(policy: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in policy.named_parameters()}


def tally_state(parts: Sequence[Tally]) -> State:
    """Of a meter that has not been read since some steps."""
    return {f"{i}.{name}": pair for i, part in enumerate(parts) for name, pair in part.items()}


def tallies(state: Mapping[str, Tensor], device: torch.device) -> list[Tally]:
    found: dict[int, Tally] = {}
    for key, pair in state.items():
        i, _, name = key.partition(".")
        found.setdefault(int(i), {})[name] = pair.to(device)
    return [found[i] for i in sorted(found)]
