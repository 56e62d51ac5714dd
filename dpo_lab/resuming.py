"""What a trainer carries from step to step, as named tensors: an interrupted run goes on from them bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from dpo_lab.metrics import Tally

State = dict[str, Tensor]


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    """The part of `state` that `prefixed` has put there."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def numbers(values: Mapping[str, float | int | Tensor]) -> State:
    """float64, which holds every float and every count exactly."""
    return {name: torch.as_tensor(value, dtype=torch.float64, device="cpu") for name, value in values.items()}


def random_state(device: torch.device) -> State:
    """Of the generators that dropout draws from."""
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def optimizer_state(optimizers: Sequence[Optimizer]) -> State:
    """Moments and counters; learning rates follow from the step."""
    return {
        f"{i}.{parameter}.{name}": value
        for i, optimizer in enumerate(optimizers)
        for parameter, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if value is not None  # the momentum that SGD without momentum does not have
    }


def set_optimizer_state(optimizers: Sequence[Optimizer], state: Mapping[str, Tensor]) -> None:
    for i, optimizer in enumerate(optimizers):
        entries: dict[int, State] = {}
        for key, value in below(str(i), state).items():
            parameter, _, name = key.partition(".")
            entries.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def tally_state(parts: Sequence[Tally]) -> State:
    """Of a meter that has not been read since some steps."""
    return {f"{i}.{name}": pair for i, part in enumerate(parts) for name, pair in part.items()}


def tallies(state: Mapping[str, Tensor], device: torch.device) -> list[Tally]:
    found: dict[int, Tally] = {}
    for key, pair in state.items():
        i, _, name = key.partition(".")
        found.setdefault(int(i), {})[name] = pair.to(device)
    return [found[i] for i in sorted(found)]
