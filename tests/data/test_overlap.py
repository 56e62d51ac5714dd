"""What is evaluated on and was trained on is counted, whichever side is the chosen one, and said."""

from __future__ import annotations

import pytest

from dpo_lab.data.base import Corpus, Feedback
from dpo_lab.data.statistics import overlap

ROWS = [Feedback(f"p{i}", (" a", " b")) for i in range(4)]
TRAINED = Corpus(train_prompts=["p0", "p1", "p2"], train=[*ROWS[:2], Feedback("p2", (" a", " c"))])


@pytest.mark.parametrize("swapped", [False, True])
def test_a_row_is_known_whichever_side_is_chosen(swapped: bool) -> None:
    rows = [Feedback(row.prompt, row.completions[::-1]) for row in ROWS] if swapped else ROWS
    found = overlap(rows, TRAINED, sampled=False)
    assert (found.rows, found.trained_on, found.prompts_trained_on) == (4, 2, 3)
    assert "trained on 2 of the 4 rows, and on the prompts of 3" in str(found)


def test_of_samples_the_prompts_alone_are_known() -> None:
    found = overlap(ROWS, TRAINED, sampled=True)
    assert (found.rows, found.trained_on, found.prompts_trained_on) == (4, 0, 3)


def test_rows_that_are_new_are_said_to_be() -> None:
    assert "none of the 1 rows" in str(overlap(ROWS[3:], TRAINED, sampled=False))
