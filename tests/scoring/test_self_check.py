"""A layout that would be wrong for a model is found out before it is used, and one that is broken, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from strategies import ForwardOnly
from torch import Tensor
from xtransformers import EXACT, OPTIONS, drawn, model, network

from dpo_lab.models.transformer import TransformerPolicy
from dpo_lab.scoring.attention import PackedRow
from dpo_lab.scoring.layouts import ALL_LAYOUTS, Layout
from dpo_lab.scoring.layouts.branches import BranchesPass
from dpo_lab.scoring.layouts.packed import PackedPass
from dpo_lab.scoring.logps import Scoring, score
from dpo_lab.scoring.self_check import exact_layouts, layout_errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("option", OPTIONS)
def test_exactly_the_layouts_that_are_right_for_a_model_pass(option: str, dtype: torch.dtype) -> None:
    if option == "dynamic bias" and dtype == torch.float64:
        pytest.skip("x-transformers cannot run it in float64")
    net = network(option).to(dtype)
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    training, state = net.training, torch.random.get_rng_state()
    found = layout_errors(TransformerPolicy(net), ALL_LAYOUTS, net)
    assert {layout for layout, reason in found.items() if reason is None} == EXACT[option]
    assert all(tensor.equal(weights[name]) and tensor.dtype == weights[name].dtype for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.training == training
    assert torch.random.get_rng_state().equal(state)


@pytest.mark.parametrize("option", ["rotary", "memory keys and values", "shifted tokens"])
@pytest.mark.parametrize("layout", [Layout.auto, *ALL_LAYOUTS])
def test_a_layout_that_does_not_pass_is_replaced_with_a_reason(option: str, layout: Layout) -> None:
    said: list[str] = []
    found = exact_layouts(model(option), layout, said.append)
    wanted = set(ALL_LAYOUTS) if layout is Layout.auto else {layout}
    assert set(found) == (wanted & EXACT[option] or {Layout.rows})
    refused = wanted - EXACT[option]
    assert len(said) == len(refused)
    assert all(
        any(line.startswith(f"compute.layout={one.value} is not used with this model: ") for line in said) for one in refused
    )


def test_a_model_without_shared_prompts_gets_rows_without_a_word() -> None:
    assert exact_layouts(ForwardOnly(model("rotary")), Layout.auto, pytest.fail) == (Layout.rows,)


def test_a_context_too_short_to_try_a_layout_is_reason_enough() -> None:
    said: list[str] = []
    assert exact_layouts(model("rotary", context=3), Layout.auto, said.append) == (Layout.rows,)
    assert len(said) == 2
    assert "its context has no room" in said[0]


def changed(part: type, **mutations: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        states = part.hidden_states  # type: ignore[attr-defined]

        def mutated(self: Any, network: Any) -> Tensor:
            return states(replace(self, **{name: change(self) for name, change in mutations.items()}), network)

        monkeypatch.setattr(part, "hidden_states", mutated)

    return apply


def positions_go_on(self: BranchesPass) -> Tensor:
    return torch.arange(self.tokens.shape[1]).expand_as(self.tokens)


def one_after_the_other(self: PackedPass) -> Tensor:
    return torch.arange(len(self.tokens))


def leaking(self: PackedPass) -> PackedRow:
    """The last candidate goes on from the one before."""
    trees = [replace(tree, ends=(*tree.ends[:-2], tree.ends[-1])) for tree in self.row.trees]
    return replace(self.row, trees=tuple(trees))


MUTANTS: dict[str, tuple[Layout, Callable[[pytest.MonkeyPatch], None]]] = {
    "positions that do not start again": (Layout.branches, changed(BranchesPass, positions=positions_go_on)),
    "candidates that see each other": (Layout.branches, changed(BranchesPass, branch=lambda self: self.branch * 0)),
    "candidates that do not see the prompt": (Layout.branches, changed(BranchesPass, branch=lambda self: self.branch + 1)),
    "the logits one place later": (Layout.branches, changed(BranchesPass, predictors=lambda self: self.predictors + 1)),
    "positions that go on in a packed row": (Layout.packed, changed(PackedPass, positions=one_after_the_other)),
    "candidates of a packed row that go on from each other": (Layout.packed, changed(PackedPass, row=leaking)),
    "the logits one place earlier": (
        Layout.packed,
        changed(PackedPass, predictors=lambda self: (self.predictors - 1).clamp(min=0)),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_layout_is_found_out(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, apply = MUTANTS[mutant]
    policy, batch = model("rotary"), drawn(2, shortest=4)
    right = score(policy, batch)
    apply(monkeypatch)
    assert (score(policy, batch, Scoring([layout])) - right).abs().max() > 1e-3
    assert set(exact_layouts(policy, Layout.auto, lambda line: None)) == set(ALL_LAYOUTS) - {layout}


def test_gradients_that_stop_at_the_prompt_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = TransformerPolicy.hidden_branches

    def detached(self: TransformerPolicy, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        found, prompt = hidden(self, tokens, positions, visible), visible.all(dim=1)  # what every token sees
        return torch.where(prompt[..., None], found.detach(), found)

    monkeypatch.setattr(TransformerPolicy, "hidden_branches", detached)
    assert Layout.branches not in exact_layouts(model("rotary"), Layout.auto, lambda line: None)
