"""How long a policy trains, and in what portions: what is refused and what is only said."""

from __future__ import annotations

import pytest

from dpo_lab.training.settings import DEFAULT_BATCH, TrainerSettings


@pytest.mark.parametrize("count", [1, DEFAULT_BATCH - 1])
def test_a_default_batch_of_more_rows_than_there_are_is_said(count: int) -> None:
    assert f"only {count} pairs" in TrainerSettings().check_rows(count, "pairs")
    assert TrainerSettings().check_rows(DEFAULT_BATCH, "pairs") == ""


@pytest.mark.parametrize("size", [DEFAULT_BATCH + 1, 10**5])
def test_a_larger_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"x.batch_size={size}, but there are only {DEFAULT_BATCH} pairs"):
        TrainerSettings(batch_size=size).check_rows(DEFAULT_BATCH, "pairs", "x")
