"""Attention in a row of several prompts and their candidates is the attention of each candidate's own text."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpo_lab.scoring.attention import Tree, Trees, again, attending_among
from dpo_lab.scoring.attention.kernels import attention
from dpo_lab.scoring.attention.masks import with_masks
from dpo_lab.scoring.layouts.base import moved_to

LENGTHS = st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(0, 4), min_size=1, max_size=4)), min_size=1, max_size=3)
"""(tokens of a prompt, of each of its candidates)"""


def trees(lengths: list[tuple[int, list[int]]]) -> Trees:
    found, column = [], 0
    for prompt, candidates in lengths:
        begin, column = column, column + prompt
        split, ends = column, []
        for length in candidates:
            ends.append(column := column + length)
        found.append(Tree(begin, split, tuple(ends)))
    return Trees.of(found)


def visible(of: Trees) -> Tensor:
    """Told column by column."""
    owners: list[tuple[int, int]] = []
    for number, tree in enumerate(of.trees):
        owners += [(number, 0)] * (tree.split - tree.begin)
        for candidate, (i, j) in enumerate(zip((tree.split, *tree.ends), tree.ends, strict=False), start=1):
            owners += [(number, candidate)] * (j - i)

    def seen(i: int, j: int) -> bool:
        return j <= i and owners[i][0] == owners[j][0] and owners[j][1] in (0, owners[i][1])

    return torch.tensor([[seen(i, j) for j in range(of.columns)] for i in range(of.columns)])


def drawn(of: Trees, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, of.columns, 8, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3)]


def with_gradients(attend: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    found = attend(*inputs)
    weights = torch.linspace(-1, 2, found.numel(), dtype=found.dtype, device=found.device).reshape(found.shape)
    return [found.detach(), *torch.autograd.grad((weights * found).sum(), inputs)]


def by_kernels(query: Tensor, key: Tensor, value: Tensor, of: Trees, scale: float | None = None) -> Tensor:
    return attention(query, key, value, of, of.spans(), scale)


ROUTES = {"by_kernels": by_kernels, "with_masks": with_masks}


@settings(max_examples=15)
@given(LENGTHS, st.sampled_from([None, 0.3]))
@pytest.mark.parametrize("route", ROUTES)
def test_pieces_and_masks_give_the_attention_and_gradients_of_the_whole_square(
    route: str, lengths: list[tuple[int, list[int]]], scale: float | None
) -> None:
    of = trees(lengths)
    inputs = drawn(of)
    right = with_gradients(lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=visible(of), scale=scale), inputs)
    found = with_gradients(lambda *qkv: ROUTES[route](*qkv, of, scale), inputs)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_are_put_together_in_the_precision_they_come_in(dtype: torch.dtype) -> None:
    of = trees([(40, [9, 30]), (3, [50, 1, 20])])
    inputs = drawn(of, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    right = with_gradients(lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=visible(of)), exact)
    for ours, theirs in zip(with_gradients(lambda *qkv: by_kernels(*qkv, of), inputs), right, strict=True):
        assert ours.dtype == dtype
        assert (ours - theirs).norm() <= (1e-6 if dtype == torch.float32 else 2e-2) * theirs.norm()


def asked(*inputs: Tensor, **given: object) -> Callable[[], Tensor]:
    return lambda: F.scaled_dot_product_attention(*inputs, **given)  # type: ignore[arg-type]


def test_a_model_asks_with_causality_or_with_the_stand_in_and_grouped_queries_are_repeated() -> None:
    of = trees([(3, [2, 4]), (2, [1, 1])])
    query, key, value = drawn(of)
    right = F.scaled_dot_product_attention(query, key, value, attn_mask=visible(of))
    mask = of.stand_in()
    assert mask.untyped_storage().nbytes() == 1
    for how in ({"is_causal": True}, {"attn_mask": mask}, {"attn_mask": mask[:, :, :, : of.columns]}):
        torch.testing.assert_close(attending_among(of, asked(query, key, value, **how)), right)
    one = attending_among(of, asked(query, key[:, :1], value[:, :1], is_causal=True, enable_gqa=True))
    other = attending_among(of, asked(query, key[:, [0, 0]], value[:, [0, 0]], is_causal=True))
    assert one.equal(other)


def test_dropout_leaves_out_only_what_is_seen() -> None:
    of = trees([(3, [2, 4])])
    query, key, value = drawn(of)
    torch.manual_seed(0)
    found = torch.stack(
        [attending_among(of, asked(query, key, value, is_causal=True, dropout_p=0.5)).detach() for _ in range(3000)]
    )
    right = F.scaled_dot_product_attention(query, key, value, attn_mask=visible(of)).detach()
    assert found.std(dim=0).min() > 0.01
    error = found.std(dim=0) / 3000**0.5
    assert ((found.mean(dim=0) - right).abs() < 5 * error).all()


def test_what_it_would_get_wrong_is_refused() -> None:
    of = trees([(3, [2, 4])])
    query, key, value = drawn(of)
    for how in ({}, {"attn_mask": visible(of)}, {"attn_mask": torch.zeros(9, 9, dtype=torch.float64)}):
        with pytest.raises(ValueError, match="a mask, a bias or a window of its own"):
            attending_among(of, asked(query, key, value, **how))
    with pytest.raises(ValueError, match="other tokens than the row's"):
        attending_among(of, asked(query, key[:, :, 1:], value[:, :, 1:], is_causal=True))
    with pytest.raises(ValueError, match="not PyTorch's fused one"):
        attending_among(of, lambda: query @ key.mT)
    causal = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert not causal.allclose(attending_among(of, asked(query, key, value, is_causal=True)))
    assert causal.equal(F.scaled_dot_product_attention(query, key, value, is_causal=True)), "only while it runs"


@pytest.mark.parametrize("lengths", [[(3, [2, 4]), (2, [1, 0, 1])], [(4, [3])]])
def test_the_operation_is_what_it_tells_the_compiler(lengths: list[tuple[int, list[int]]]) -> None:
    of = trees(lengths)
    where = [of.texts, of.others, of.of_others, of.prompts, of.of_prompts]
    torch.library.opcheck(torch.ops.dpo_lab.attention_among_trees.default, (*drawn(of, torch.float32), of.spans(), where, None))


def test_a_row_with_other_columns_than_the_trees_is_refused() -> None:
    of = trees([(3, [2, 4])])
    with pytest.raises(ValueError, match="other tokens than the row's"):
        by_kernels(*drawn(trees([(3, [2, 3])])), of)


def test_it_can_be_entered_again_later_on_another_thread() -> None:
    of = trees([(3, [2, 4])])
    query, key, value = drawn(of)
    contexts = []

    def run() -> Tensor:
        contexts.append(again())
        return asked(query, key, value, is_causal=True)()

    first, found = attending_among(of, run), list[Tensor]()

    def later() -> None:
        with contexts[0]:
            found.append(asked(query, key, value, is_causal=True)())

    thread = threading.Thread(target=later)
    thread.start()
    thread.join()
    assert found[0].equal(first)
    with again():
        assert not asked(query, key, value, is_causal=True)().allclose(first), "there is nothing to enter again"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "lengths", [[(300, [200, 140]), (20, [30, 30]), (500, [1, 260])], [(5, [7]), (40, [1, 0, 9, 33])], [(9, [70])]]
)
def test_kernels_give_values_and_gradients_on_cuda(lengths: list[tuple[int, list[int]]], dtype: torch.dtype) -> None:
    of = trees(lengths)
    there = moved_to(of, torch.device("cuda"))
    inputs = [torch.randn(1, 4, of.columns, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    right = with_gradients(lambda *qkv: with_masks(*qkv, there), exact)
    for ours, theirs in zip(with_gradients(lambda *qkv: by_kernels(*qkv, there), inputs), right, strict=True):
        assert ours.dtype == dtype
        assert (ours - theirs).norm() <= (1e-4 if dtype == torch.float32 else 2e-2) * theirs.norm()
