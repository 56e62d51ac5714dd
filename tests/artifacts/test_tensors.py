"""Tensors by name: what is stored, once each, and digests of every bit."""

from __future__ import annotations

import torch

from dpo_lab.artifacts.tensors import each_once, storable, tensor_digest


def test_what_is_stored_has_no_gaps_and_no_graph() -> None:
    found = storable({"w": torch.arange(6.0, requires_grad=True).reshape(2, 3).T})["w"]
    assert found.is_contiguous()
    assert not found.requires_grad
    assert found.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_of_tied_tensors_the_first_is_kept_and_of_empty_ones_all() -> None:
    tied, empty = torch.ones(2, 2), torch.zeros(0)
    found = each_once({"head": tied, "table": tied, "row": tied[0], "a": empty, "b": empty})
    assert list(found) == ["head", "row", "a", "b"], "a part of a tensor is another one"


def test_a_digest_depends_on_dtype_shape_and_every_bit_and_on_nothing_else() -> None:
    values = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    others = [-values, values.T, values.flatten(), values.double(), values.bfloat16(), values.bool(), torch.zeros(0)]
    digests = {tensor_digest(tensor) for tensor in [values, *others]}
    assert len(digests) == 1 + len(others)
    assert tensor_digest(values.T.contiguous().T) == tensor_digest(values)
    assert tensor_digest(torch.tensor([-0.0])) != tensor_digest(torch.tensor([0.0]))
