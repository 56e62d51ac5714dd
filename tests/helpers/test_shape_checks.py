"""What the tests' import hook checks: functions and dataclasses that name tensors."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from dpo_lab.models.generation import sample
from dpo_lab.registry import suggestion
from dpo_lab.scoring.logps import score


def test_a_function_that_gives_a_tensor_is_checked_and_one_without_is_left_alone() -> None:
    with pytest.raises(TypeCheckError):
        score(torch.nn.Linear(1, 1), "no batch")  # type: ignore[arg-type]
    assert hasattr(sample, "__wrapped__")
    assert not hasattr(suggestion, "__wrapped__")
