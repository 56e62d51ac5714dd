"""Optimisers: every parameter has exactly one, and wrong settings are refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Muon

from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.training.optimizers import OPTIMIZERS, OptimizerSpec
from dpo_lab.training.optimizers.muon import MuonScaling


def transformer(tie: bool) -> nn.Module:
    torch.manual_seed(0)
    return TransformerSpec(dim=8, depth=2, heads=1, context=8, tie_embedding=tie).build(7)


@pytest.fixture(params=list(OPTIMIZERS))
def spec(request: pytest.FixtureRequest) -> OptimizerSpec:
    return OPTIMIZERS[request.param]()


@pytest.mark.parametrize("tie", [False, True])
def test_the_groups_hold_every_parameter_exactly_once(spec: OptimizerSpec, tie: bool) -> None:
    model = transformer(tie)
    held = [id(p) for optimizer in spec.build(model) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("tie", [False, True])
def test_one_step_moves_every_parameter_that_has_a_gradient(spec: OptimizerSpec, tie: bool) -> None:
    model = transformer(tie)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for optimizer in spec.build(model):
        optimizer.step()
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


def test_muon_has_the_matrices_between_embedding_and_head_and_nothing_else() -> None:
    model = transformer(tie=False)
    muon, rest = OPTIMIZERS["muon"](lr=0.5, adamw_lr=0.25).build(model)
    assert isinstance(muon, Muon)
    names = {id(p): name for name, p in model.named_parameters()}
    held = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert held == {name for name, p in model.named_parameters() if p.ndim == 2 and "attn_layers" in name}
    assert len(held) == 2 * 5  # queries, keys, values and two of the feed-forward, in two layers; one head has no output matrix
    assert [muon.param_groups[0]["lr"], rest.param_groups[0]["lr"]] == [0.5, 0.25]


def test_muon_refuses_a_model_that_does_not_name_its_matrices() -> None:
    with pytest.raises(ValueError, match="optimizer=muon: Linear does not name its hidden matrices; use optimizer=adamw"):
        OPTIMIZERS["muon"]().build(nn.Linear(2, 2))


WRONG: list[tuple[str, str, Any]] = [
    ("adamw", "lr", -1.0),
    ("adamw", "lr", math.nan),
    ("adamw", "betas", [0.9]),
    ("adamw", "betas", [0.9, 1.0]),
    ("adamw", "betas", [-0.1, 0.9]),
    ("adamw", "eps", -1e-8),
    ("adamw", "weight_decay", -0.1),
    ("muon", "lr", -1.0),
    ("muon", "adamw_lr", -1.0),
    ("muon", "momentum", -0.5),
    ("muon", "weight_decay", -0.1),
    ("muon", "adamw_betas", [0.9]),
    ("muon", "adamw_betas", [0.9, 1.0]),
    ("sgd", "lr", -1.0),
    ("sgd", "momentum", -0.5),
]


@pytest.mark.parametrize(("name", "field", "value"), WRONG, ids=[f"{name}-{field}-{value}" for name, field, value in WRONG])
def test_a_wrong_setting_is_refused_by_its_name(name: str, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"optimizer\.{field}"):
        OPTIMIZERS[name](**{field: value})


@pytest.mark.parametrize(
    ("scaling", "factor"),
    [
        (MuonScaling.original, lambda a, b: math.sqrt(max(1, a / b))),
        (MuonScaling.match_rms_adamw, lambda a, b: 0.2 * math.sqrt(max(a, b))),
    ],
)
def test_muons_steps_are_scaled_by_the_matrix_as_its_source_says(
    scaling: MuonScaling, factor: Callable[[int, int], float]
) -> None:
    model = transformer(tie=False)
    matrices = model.hidden_matrices()
    before = [matrix.detach().clone() for matrix in matrices]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    OPTIMIZERS["muon"](lr=0.01, scaling=scaling).build(model)[0].step()
    shapes = {tuple(matrix.shape) for matrix in matrices}
    assert len({a > b for a, b in shapes}) == 2, "tall and wide ones"
    for matrix, was in zip(matrices, before, strict=True):
        largest = torch.linalg.matrix_norm(matrix.detach() - was, ord=2)
        assert 0.6 < float(largest) / (0.01 * factor(*matrix.shape)) < 1.3  # five rounds bring singular values to about 1
