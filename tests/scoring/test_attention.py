"""Attention in a row of several prompts and their candidates is the attention of each candidate's own text."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xtransformers import drawn as batch_drawn
from xtransformers import model

from dpo_lab.scoring.attention import (
    PackedRow,
    PrefixTree,
    blockwise,
    kernels,
    recomputation_context,
    varlen,
    with_tree_attention,
)
from dpo_lab.scoring.attention.masked import masked_attention
from dpo_lab.scoring.attention.tree_attention import tree_attention
from dpo_lab.scoring.layouts import Layout
from dpo_lab.scoring.layouts.base import to_device
from dpo_lab.scoring.layouts.choosing import available_layouts
from dpo_lab.scoring.logps import Scoring, score

LENGTHS = st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(0, 4), min_size=1, max_size=4)), min_size=1, max_size=3)
"""(tokens of a prompt, of each of its candidates)"""


def packed_row(lengths: list[tuple[int, list[int]]]) -> PackedRow:
    trees, column = [], 0
    for prompt, candidates in lengths:
        begin, column = column, column + prompt
        split, ends = column, []
        for length in candidates:
            ends.append(column := column + length)
        trees.append(PrefixTree(begin, split, tuple(ends)))
    return PackedRow.of(trees)


def visible(row: PackedRow) -> Tensor:
    """Told column by column."""
    owners: list[tuple[int, int]] = []
    for number, tree in enumerate(row.trees):
        owners += [(number, 0)] * (tree.split - tree.begin)
        for candidate, (i, j) in enumerate(zip((tree.split, *tree.ends), tree.ends, strict=False), start=1):
            owners += [(number, candidate)] * (j - i)

    def seen(i: int, j: int) -> bool:
        return j <= i and owners[i][0] == owners[j][0] and owners[j][1] in (0, owners[i][1])

    return torch.tensor([[seen(i, j) for j in range(row.num_columns)] for i in range(row.num_columns)])


def drawn(row: PackedRow, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, 2, row.num_columns, 8, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3)
    ]


def with_gradients(attend: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    found = attend(*inputs)
    weights = torch.linspace(-1, 2, found.numel(), dtype=found.dtype, device=found.device).reshape(found.shape)
    return [found.detach(), *torch.autograd.grad((weights * found).sum(), inputs)]


def by_kernels(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float | None = None) -> Tensor:
    return tree_attention(query, key, value, row, row.bounds(), scale)


ROUTES = {"by_kernels": by_kernels, "masked_attention": masked_attention}


@settings(max_examples=15)
@given(LENGTHS, st.sampled_from([None, 0.3]))
@pytest.mark.parametrize("route", ROUTES)
def test_pieces_and_masks_give_the_attention_and_gradients_of_the_whole_square(
    route: str, lengths: list[tuple[int, list[int]]], scale: float | None
) -> None:
    row = packed_row(lengths)
    inputs = drawn(row)
    right = with_gradients(lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=visible(row), scale=scale), inputs)
    found = with_gradients(lambda *qkv: ROUTES[route](*qkv, row, scale), inputs)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


def blocks(offsets: kernels.Offsets) -> Iterator[tuple[slice, slice]]:
    queries, keys, longest_query, longest_key = offsets
    assert longest_query >= queries.diff().max()
    assert longest_key >= keys.diff().max()
    for i, j, first, last in zip(queries, queries[1:], keys, keys[1:], strict=False):
        yield slice(int(i), int(j)), slice(int(first), int(last))


def seen_scores(query: Tensor, key: Tensor, causal: bool, scale: float | None) -> Tensor:
    scores = torch.einsum("ihd,jhd->hij", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf) if causal else scores


def slow_varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, offsets: kernels.Offsets, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    out, logsumexp = torch.empty_like(query), query.new_empty(query.shape[1], len(query))
    for rows, columns in blocks(offsets):
        scores = seen_scores(query[rows], key[columns], causal, scale)
        out[rows] = torch.einsum("hij,jhd->ihd", scores.softmax(dim=-1), value[columns])
        logsumexp[:, rows] = scores.logsumexp(dim=-1)
    return out, logsumexp


def slow_varlen_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    offsets: kernels.Offsets,
    causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    grads, factor = [torch.zeros_like(t) for t in (query, key, value)], query.shape[-1] ** -0.5 if scale is None else scale
    for rows, columns in blocks(offsets):
        share = (seen_scores(query[rows], key[columns], causal, scale) - logsumexp[:, rows, None]).exp()
        grads[2][columns] += torch.einsum("hij,ihd->jhd", share, grad[rows])
        of_share = torch.einsum("ihd,jhd->hij", grad[rows], value[columns])
        of_scores = share * (of_share - (grad[rows] * out[rows]).sum(dim=-1).mT[..., None]) * factor
        grads[0][rows] += torch.einsum("hij,jhd->ihd", of_scores, key[columns])
        grads[1][columns] += torch.einsum("hij,ihd->jhd", of_scores, query[rows])
    return grads[0], grads[1], grads[2]


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("lengths", [[(3, [2, 4]), (2, [1, 0, 1])], [(4, [3])], [(1, [0, 2]), (2, [1]), (3, [2, 0, 5])]])
def test_what_a_kernel_for_all_texts_at_once_gives_is_joined_rightly(
    lengths: list[tuple[int, list[int]]], scale: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The route of half precision on CUDA, with a slow kernel in FlashAttention's place."""
    monkeypatch.setattr(varlen, "varlen_forward", slow_varlen_forward)
    monkeypatch.setattr(varlen, "varlen_backward", slow_varlen_backward)
    monkeypatch.setattr(sys.modules[tree_attention.__module__], "_takes_varlen", lambda query: True)
    row = packed_row(lengths)
    inputs = drawn(row, torch.float32)
    right = with_gradients(lambda *qkv: masked_attention(*qkv, row, scale), inputs)
    for ours, theirs in zip(with_gradients(lambda *qkv: by_kernels(*qkv, row, scale), inputs), right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_are_put_together_in_the_precision_they_come_in(dtype: torch.dtype) -> None:
    row = packed_row([(40, [9, 30]), (3, [50, 1, 20])])
    inputs = drawn(row, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    right = with_gradients(lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=visible(row)), exact)
    for ours, theirs in zip(with_gradients(lambda *qkv: by_kernels(*qkv, row), inputs), right, strict=True):
        assert ours.dtype == dtype
        assert (ours - theirs).norm() <= (1e-6 if dtype == torch.float32 else 2e-2) * theirs.norm()


def asked(*inputs: Tensor, **given: object) -> Callable[[], Tensor]:
    return lambda: F.scaled_dot_product_attention(*inputs, **given)  # type: ignore[arg-type]


def test_a_model_asks_with_causality_or_with_the_stand_in_and_grouped_queries_are_repeated() -> None:
    row = packed_row([(3, [2, 4]), (2, [1, 1])])
    query, key, value = drawn(row)
    right = F.scaled_dot_product_attention(query, key, value, attn_mask=visible(row))
    mask = row.placeholder_mask()
    assert mask.untyped_storage().nbytes() == 1
    for how in ({"is_causal": True}, {"attn_mask": mask}, {"attn_mask": mask[:, :, :, : row.num_columns]}):
        torch.testing.assert_close(with_tree_attention(row, asked(query, key, value, **how)), right)
    one = with_tree_attention(row, asked(query, key[:, :1], value[:, :1], is_causal=True, enable_gqa=True))
    other = with_tree_attention(row, asked(query, key[:, [0, 0]], value[:, [0, 0]], is_causal=True))
    assert one.equal(other)


def test_dropout_leaves_out_only_what_is_seen() -> None:
    row = packed_row([(3, [2, 4])])
    query, key, value = drawn(row)
    torch.manual_seed(0)
    found = torch.stack(
        [with_tree_attention(row, asked(query, key, value, is_causal=True, dropout_p=0.5)).detach() for _ in range(3000)]
    )
    right = F.scaled_dot_product_attention(query, key, value, attn_mask=visible(row)).detach()
    assert found.std(dim=0).min() > 0.01
    error = found.std(dim=0) / 3000**0.5
    assert ((found.mean(dim=0) - right).abs() < 5 * error).all()


def test_what_it_would_get_wrong_is_refused() -> None:
    row = packed_row([(3, [2, 4])])
    query, key, value = drawn(row)
    for how in ({}, {"attn_mask": visible(row)}, {"attn_mask": torch.zeros(9, 9, dtype=torch.float64)}):
        with pytest.raises(ValueError, match="a mask, a bias or a window of its own"):
            with_tree_attention(row, asked(query, key, value, **how))
    with pytest.raises(ValueError, match="other tokens than the row's"):
        with_tree_attention(row, asked(query, key[:, :, 1:], value[:, :, 1:], is_causal=True))
    with pytest.raises(ValueError, match="not PyTorch's fused one"):
        with_tree_attention(row, lambda: query @ key.mT)
    causal = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert not causal.allclose(with_tree_attention(row, asked(query, key, value, is_causal=True)))
    assert causal.equal(F.scaled_dot_product_attention(query, key, value, is_causal=True)), "only while it runs"


@pytest.mark.parametrize("lengths", [[(3, [2, 4]), (2, [1, 0, 1])], [(4, [3])]])
def test_the_operation_is_what_it_tells_the_compiler(lengths: list[tuple[int, list[int]]]) -> None:
    row = packed_row(lengths)
    index = [row.text_offsets, row.later_columns, row.later_offsets, row.prompt_columns, row.prompt_offsets]
    inputs = (*drawn(row, torch.float32), row.bounds(), index, None)
    torch.library.opcheck(torch.ops.dpo_lab.tree_attention.default, inputs)


def test_a_row_with_other_columns_than_the_trees_is_refused() -> None:
    row = packed_row([(3, [2, 4])])
    with pytest.raises(ValueError, match="other tokens than the row's"):
        by_kernels(*drawn(packed_row([(3, [2, 3])])), row)


def test_it_can_be_entered_again_later_on_another_thread() -> None:
    row = packed_row([(3, [2, 4])])
    query, key, value = drawn(row)
    contexts = []

    def run() -> Tensor:
        contexts.append(recomputation_context())
        return asked(query, key, value, is_causal=True)()

    first, found = with_tree_attention(row, run), list[Tensor]()

    def later() -> None:
        with contexts[0]:
            found.append(asked(query, key, value, is_causal=True)())

    thread = threading.Thread(target=later)
    thread.start()
    thread.join()
    assert found[0].equal(first)
    with recomputation_context():
        assert not asked(query, key, value, is_causal=True)().allclose(first), "there is nothing to enter again"


@pytest.fixture
def other_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A PyTorch whose attention takes other arguments than are expected."""
    for device, schemas in kernels.EXPECTED.items():
        monkeypatch.setitem(
            kernels.EXPECTED, device, tuple(schema.replace("Tensor query", "Tensor queries") for schema in schemas)
        )
    kernels.devices_with_kernels.cache_clear()
    yield
    kernels.devices_with_kernels.cache_clear()


def test_this_pytorch_has_the_kernels() -> None:
    kernels.devices_with_kernels.cache_clear()
    assert kernels.devices_with_kernels() == {"cpu", "cuda"}


@pytest.mark.usefixtures("other_torch")
def test_without_kernels_masks_give_the_scores_and_gradients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blockwise, "block_forward", lambda *given: pytest.fail("a kernel is called"))
    network, batch = model("rotary"), batch_drawn(3)

    def scored(layout: Layout) -> list[Tensor]:
        scores = score(network, batch, Scoring((layout,)))
        return [scores, *torch.autograd.grad(scores.sum(), list(network.parameters()))]

    for ours, theirs in zip(scored(Layout.packed), scored(Layout.rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    assert "packed rows are computed with masks on cpu, which is slower" in caplog.text
    assert available_layouts(network) == (Layout.rows, Layout.branches), "auto leaves it out"


SCHEMA = "(Tensor query, float dropout_p, *, float? scale=None) -> (Tensor, Tensor)"


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        (SCHEMA, True),
        (SCHEMA.replace("scale=None", "scale=None, int? window=None"), True),
        (SCHEMA.replace("scale=None", "scale=None, int window"), False),
        (SCHEMA.replace("dropout_p", "dropout_p, bool causal"), False),
        (SCHEMA.replace("dropout_p", "p"), False),
        (SCHEMA.replace("float dropout_p", "int dropout_p"), False),
        (SCHEMA.replace("Tensor query, float dropout_p", "float dropout_p, Tensor query"), False),
        (SCHEMA.replace("float dropout_p, *", "*, float dropout_p"), False),
        (SCHEMA.replace("(Tensor, Tensor)", "Tensor"), False),
        (SCHEMA.replace("(Tensor, Tensor)", "(Tensor, Tensor, Tensor)"), False),
        (SCHEMA.replace(", *, float? scale=None", ""), False),
    ],
)
def test_an_operation_whose_signature_has_changed_is_not_called(schema: str, fits: bool) -> None:
    name = f"op{abs(hash(schema))}"
    library = torch.library.Library("dpo_lab_signatures", "FRAGMENT")
    library.define(f"{name}{schema}")
    assert kernels.has_signature(f"{name}{SCHEMA}", "dpo_lab_signatures") == fits


def test_an_operation_that_is_gone_is_not_called() -> None:
    assert not kernels.has_signature("_no_such_attention(Tensor query) -> Tensor")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "lengths", [[(300, [200, 140]), (20, [30, 30]), (500, [1, 260])], [(5, [7]), (40, [1, 0, 9, 33])], [(9, [70])]]
)
def test_kernels_give_values_and_gradients_on_cuda(lengths: list[tuple[int, list[int]]], dtype: torch.dtype) -> None:
    row = packed_row(lengths)
    there = to_device(row, torch.device("cuda"))
    inputs = [torch.randn(1, 4, row.num_columns, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    right = with_gradients(lambda *qkv: masked_attention(*qkv, there), exact)
    for ours, theirs in zip(with_gradients(lambda *qkv: by_kernels(*qkv, there), inputs), right, strict=True):
        assert ours.dtype == dtype
        assert (ours - theirs).norm() <= (1e-4 if dtype == torch.float32 else 2e-2) * theirs.norm()
