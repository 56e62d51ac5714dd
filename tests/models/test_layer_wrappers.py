"""A body that is compiled, or that keeps less, gives the same scores and gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch._dynamo.utils
from hugging_face import network
from strategies import RecurrentTable, tiny_transformer
from torch import Tensor, nn
from xtransformers import CONTEXT, VOCAB, drawn

from dpo_lab.models.copies import independent_copy
from dpo_lab.models.hugging_face.causal_lm import CausalLM
from dpo_lab.models.layer_wrappers import checkpoint_blocks, compile_layers
from dpo_lab.models.transformer import TransformerPolicy
from dpo_lab.scoring.layouts import ALL_LAYOUTS, Layout
from dpo_lab.scoring.logps import Scoring, score
from experiments.throughput.benchmark import Case


def policy(dropout: float = 0.0) -> TransformerPolicy:
    return tiny_transformer(vocab=VOCAB, context=CONTEXT, depth=2, dropout=dropout)


def scores_and_gradients(model: nn.Module, layout: Layout = Layout.rows) -> list[Tensor]:
    torch.manual_seed(0)
    scores = score(model, drawn(2), Scoring([layout]))
    weights = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape)
    return [scores, *torch.autograd.grad((weights * scores).sum(), list(model.parameters()))]


def kept(model: nn.Module) -> int:
    """Numbers that the forward pass keeps for the backward pass."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        score(model, drawn(2)).sum()
    return sum(sizes)


@contextmanager
def counted_graphs() -> Iterator[Callable[[], int]]:
    """How many have been compiled since."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_checkpointing_changes_no_score_and_no_gradient(layout: Layout, dropout: float) -> None:
    model = policy(dropout).train()
    plain = scores_and_gradients(model, layout)
    weights, size = {name: tensor.clone() for name, tensor in model.state_dict().items()}, kept(model)
    checkpoint_blocks(model)
    for one, other in zip(scores_and_gradients(model, layout), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert kept(model) < 0.6 * size
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {n: t.shape for n, t in weights.items()}


@pytest.mark.parametrize(("layout", "checkpointing"), [(Layout.rows, False), (Layout.packed, True)])
def test_a_compiled_model_changes_no_score_and_no_gradient(layout: Layout, checkpointing: bool) -> None:
    model = policy()
    plain, names = scores_and_gradients(model, layout), list(model.state_dict())
    with counted_graphs() as graphs:
        # Captured, differentiated and run as graphs, but without the code generator, which takes long on a CPU.
        compile_layers(model, backend="aot_eager")
        if checkpointing:
            checkpoint_blocks(model)
        compiled = scores_and_gradients(model, layout)
    for one, other in zip(compiled, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    assert graphs() >= 3, "attention, feedforward and norm"
    assert list(model.state_dict()) == names


def of_depth(make: str, depth: int) -> nn.Module:
    if make == "x-transformers":
        return tiny_transformer(vocab=VOCAB, context=CONTEXT, depth=depth)
    return CausalLM(network(make, num_hidden_layers=depth))


@pytest.mark.parametrize("make", ["x-transformers", "Llama"])
def test_what_is_compiled_for_one_layer_serves_all(make: str) -> None:
    found = []
    for depth in (1, 3):
        model = of_depth(make, depth)
        plain = [scores_and_gradients(model, layout) for layout in ALL_LAYOUTS]
        with counted_graphs() as graphs:
            compile_layers(model, backend="eager")
            for layout, expected in zip(ALL_LAYOUTS, plain, strict=True):
                for one, other in zip(scores_and_gradients(model, layout), expected, strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
            found.append(graphs())
    assert found[0] == found[1] > 0


def test_dropout_in_packed_rows_is_not_compiled_anew() -> None:
    model = policy(dropout=0.3).train()
    plain = scores_and_gradients(model, Layout.packed)
    with counted_graphs() as graphs:
        compile_layers(model, backend="eager")
        for one, other in zip(scores_and_gradients(model, Layout.packed), plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
        before = graphs()
        for pairs in (3, 4, 5):
            score(model, Case(prompt=5, completion=4, vocab=VOCAB, pairs=pairs).draw(seed=pairs), Scoring([Layout.packed]))
        assert graphs() <= before + 6, "once more, for lengths that vary, in attention, feedforward and norm"
        before = graphs()
        score(model, Case(prompt=7, completion=4, vocab=VOCAB, pairs=6).draw(seed=0), Scoring([Layout.packed]))
        assert graphs() == before


def test_a_part_with_a_forward_of_its_own_is_not_compiled_over() -> None:
    model = policy()
    checkpoint_blocks(model)
    with pytest.raises(ValueError, match="has a forward of its own"):
        compile_layers(model)


@pytest.mark.parametrize("change", [checkpoint_blocks, partial(compile_layers, backend="eager")])
def test_a_copy_of_a_changed_model_runs_its_own_weights(change: Callable[[nn.Module], None]) -> None:
    model = policy()
    with counted_graphs():
        change(model)
        twin = independent_copy(model)
        before = score(twin, drawn(2))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        assert score(twin, drawn(2)).equal(before)


def test_packed_rows_of_other_lengths_are_not_compiled_anew() -> None:
    model = tiny_transformer(vocab=VOCAB, context=4 * CONTEXT)
    graphs: list[str] = []

    def noted(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph.code)
        return graph

    with counted_graphs():
        compile_layers(model, backend=noted)
        for prompt, completion, pairs in ((5, 9, 6), (8, 4, 7), (20, 11, 6), (9, 9, 9)):
            batch = Case(prompt=prompt, completion=completion, vocab=VOCAB, pairs=pairs).draw(seed=0)
            compiled = score(model, batch, Scoring([Layout.packed]))
            torch.testing.assert_close(compiled, score(model, batch, Scoring([Layout.rows])), rtol=1e-9, atol=1e-11)
    assert sum("tree_attention" in graph for graph in graphs) == 1
    assert sum("scaled_dot_product_attention" in graph for graph in graphs) == 1
    assert sum("silu" in graph for graph in graphs) == 2


@pytest.mark.parametrize("change", [checkpoint_blocks, compile_layers])
def test_a_model_that_does_not_name_its_blocks_is_refused(change: object) -> None:
    with pytest.raises(ValueError, match="RecurrentTable does not name its blocks and parts"):
        change(RecurrentTable())  # type: ignore[operator]
