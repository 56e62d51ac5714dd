"""References that follow the policy do so exactly as their papers' recursions say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from dpo_lab.training.references import REFERENCES, Reference, ReferenceSpec


class Weights(nn.Module):
    """Two weights and a buffer."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([-v for v in values], dtype=torch.float64))
        self.register_buffer("constant", torch.ones(1))


def trajectory(spec: ReferenceSpec, steps: int = 7) -> tuple[list[list[float]], list[list[float]], Reference]:
    """Weights of policy and reference after each step, the policy's being the step's number and its square."""
    policy = Weights(0.5, 0.25)
    reference = Reference(spec, Weights(0.5, 0.25))
    path, found = [policy.weight.tolist()], [policy.weight.tolist()]
    for step in range(1, steps + 1):
        with torch.no_grad():
            policy.weight.copy_(torch.tensor([float(step), step**2 / 10]))
        reference.follow(policy, step)
        path.append(policy.weight.tolist())
        found.append(reference.model.weight.tolist())  # type: ignore[operator, union-attr]
    return path, found, reference


@pytest.mark.parametrize("mixup", [1.0, 0.6, 0.1])
@pytest.mark.parametrize("every", [1, 3])
def test_a_synced_reference_mixes_the_policy_in_every_so_many_steps(mixup: float, every: int) -> None:
    path, found, _ = trajectory(REFERENCES["synced"](sync_every=every, mixup=mixup))
    expected = path[0]
    for step in range(1, len(path)):
        if step % every == 0:
            expected = [mixup * p + (1 - mixup) * r for p, r in zip(path[step], expected, strict=True)]
        assert found[step] == pytest.approx(expected, rel=1e-12)


def test_a_hard_update_copies_every_bit() -> None:
    path, found, _ = trajectory(REFERENCES["synced"](sync_every=2, mixup=1.0))
    assert found[6] == found[7] == path[6]


@pytest.mark.parametrize(
    "options", [{"bias_power": 0.5}, {"correct_bias": False}, {"update_every": 3}, {"lag": 1.0, "ema_power": 0.9}]
)
def test_an_ema_reference_is_the_bias_corrected_average(options: dict[str, Any]) -> None:
    spec = REFERENCES["ema"](**{"update_every": 1, **options})
    path, found, _ = trajectory(spec)
    average, expected = path[0], path[0]
    for step in range(1, len(path)):
        if step % spec.update_every == 0:
            share, correction = (spec.lag + step) ** -spec.ema_power, (spec.lag + step) ** -spec.bias_power
            average = [(1 - share) * a + share * p for a, p in zip(average, path[step], strict=True)]
            expected = [
                a + correction * (p - start) * spec.correct_bias
                for a, p, start in zip(average, path[step], path[0], strict=True)
            ]
        assert found[step] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["synced", "ema"])
def test_a_moving_reference_says_all_that_a_checkpoint_must_hold(name: str) -> None:
    spec = REFERENCES[name](**({"sync_every": 2} if name == "synced" else {"update_every": 1}))
    assert spec.moves
    _, through, _ = trajectory(spec, 7)
    _, _, half = trajectory(spec, 4)
    again = Reference(spec, Weights(0.0, 0.0))
    state = {key: tensor.clone() for key, tensor in half.state().items()}
    again.model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    again.memory = {k.removeprefix("memory."): v for k, v in state.items() if k.startswith("memory.")}
    policy = Weights(0.0, 0.0)
    for step in range(5, 8):
        with torch.no_grad():
            policy.weight.copy_(torch.tensor([float(step), step**2 / 10]))
        again.follow(policy, step)
    assert again.model.weight.tolist() == through[7]  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("name", ["frozen", "cached", "none"])
def test_the_others_stay_where_they_are_and_have_no_state(name: str) -> None:
    path, found, reference = trajectory(REFERENCES[name]())
    assert all(weights == path[0] for weights in found)
    assert reference.state() == {}


def test_a_moving_reference_leaves_the_policy_alone_and_gets_no_gradient() -> None:
    for name in ("synced", "ema"):
        policy, reference = Weights(1.0, 2.0), Reference(REFERENCES[name](), Weights(0.0, 0.0))
        before = policy.weight.clone()
        for step in range(1, 513):
            reference.follow(policy, step)
        assert reference.model.weight.tolist() != [0.0, 0.0]  # type: ignore[operator, union-attr]
        assert torch.equal(policy.weight, before)
        assert all(p.grad is None for p in reference.model.parameters())
        assert reference.model.weight.data_ptr() != policy.weight.data_ptr()  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("synced", "sync_every", 0),
        ("synced", "mixup", 0.0),
        ("synced", "mixup", 1.1),
        ("ema", "update_every", 0),
        ("ema", "lag", -1.0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"reference\.{field} must be .*, got"):
        REFERENCES[name](**{field: value})


def test_a_reference_that_would_never_move_is_remarked_on() -> None:
    for spec in (REFERENCES["synced"](sync_every=100), REFERENCES["ema"](update_every=100)):
        assert spec.warnings(100) == []
        assert "never moves" in spec.warnings(99)[0]


def test_a_cached_reference_cannot_follow() -> None:
    """Stored scores are those of weights that stay."""
    settings = {field.name for field in dataclasses.fields(REFERENCES["cached"])}
    assert not REFERENCES["cached"].moves
    assert not settings & {"sync_every", "mixup", "update_every"}
