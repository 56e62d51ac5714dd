"""Independent copies: nothing shared with the original, also through functions that a module keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dpo_lab.models.copies import freeze, independent_copy
from dpo_lab.models.transformer import TransformerSpec


class Tied(nn.Module):
    """Keeps its head as a function over itself, as x-transformers does with `tie_embedding=True`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.scale = 2.0
        self.head: Callable[..., Tensor] = lambda hidden, *, power=1: (hidden @ self.embedding.weight.t() * self.scale) ** power

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


class OverAnother(nn.Module):
    """Its function closes over a module inside another one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Tied()
        inner = self.inner
        self.twice: Callable[[Tensor], Tensor] = lambda tokens: inner(tokens) * 2

    def forward(self, tokens: Tensor) -> Tensor:
        return self.twice(tokens)


def transformer(tie: bool) -> nn.Module:
    return TransformerSpec(dim=8, depth=1, heads=1, context=8, tie_embedding=tie).build(5)


MODELS = {
    "tied": Tied,
    "over another": OverAnother,
    "x tied": lambda: transformer(True),
    "x untied": lambda: transformer(False),
}
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


@torch.no_grad()
def disturb(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter += torch.randn_like(parameter)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


TOKENS = torch.tensor([[0, 1, 2, 3, 4]])


@every_model
def test_noise_on_either_leaves_the_other_bit_identical(build: Callable[[], nn.Module]) -> None:
    model = build()
    twin = independent_copy(model)
    before = model(TOKENS)
    assert torch.equal(twin(TOKENS), before)
    disturb(model)
    assert torch.equal(twin(TOKENS), before)
    moved = model(TOKENS)
    assert not torch.allclose(moved, before)
    disturb(twin)
    assert torch.equal(model(TOKENS), moved)
    assert not torch.allclose(twin(TOKENS), before)


@every_model
def test_the_copys_gradients_are_its_own(build: Callable[[], nn.Module]) -> None:
    model = build()
    twin = independent_copy(model)
    twin(TOKENS).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in twin.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@every_model
def test_a_copy_of_a_copy_is_independent_too(build: Callable[[], nn.Module]) -> None:
    first = independent_copy(build())
    second = independent_copy(first)
    before = second(TOKENS)
    disturb(first)
    assert torch.equal(second(TOKENS), before)


@every_model
def test_no_storage_is_shared(build: Callable[[], nn.Module]) -> None:
    model = build()
    storages = [{t.data_ptr() for t in (*m.parameters(), *m.buffers())} for m in (model, independent_copy(model))]
    assert storages[0].isdisjoint(storages[1])


def test_a_plain_deep_copy_of_a_tied_model_follows_the_original() -> None:
    """Why `independent_copy` exists, and that the tests above can fail."""
    model = Tied()
    twin = copy.deepcopy(model)
    before = twin(TOKENS)
    disturb(model)
    assert not torch.allclose(twin(TOKENS), before)


def test_the_copied_function_keeps_its_name_defaults_and_attributes() -> None:
    model = Tied()
    model.head.note = "kept"
    twin = independent_copy(model)
    hidden = torch.rand(2, 3)
    assert twin.head is not model.head
    assert twin.head.note == "kept"
    assert twin.head.__name__ == model.head.__name__
    torch.testing.assert_close(twin.head(hidden, power=2), twin.head(hidden) ** 2)
    assert torch.equal(twin.head(hidden), model.head(hidden))


def test_what_a_function_closes_over_but_the_model_does_not_hold_is_shared() -> None:
    outside = nn.Parameter(torch.ones(3))
    model = nn.Linear(3, 3)
    model.shift = lambda x: x + outside
    assert independent_copy(model).shift.__closure__[0].cell_contents is outside


def test_modes_and_frozen_parameters_are_copied_as_they_are() -> None:
    model = nn.Sequential(nn.Dropout().eval(), Tied(), nn.Linear(5, 5).requires_grad_(False))
    twin = independent_copy(model)
    assert [m.training for m in twin.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]


def test_freeze_returns_the_model_itself_in_evaluation_mode_without_gradients() -> None:
    model = transformer(False).train()
    assert freeze(model) is model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
