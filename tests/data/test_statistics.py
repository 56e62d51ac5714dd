"""What is odd about the data is counted, exactly, without holding the data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.data import Feedback
from dpo_lab.data.messages import Message
from dpo_lab.data.pairs import PairsSource
from dpo_lab.data.statistics import FeedbackStatistics, data_warnings, split_text

SMALL = st.sampled_from(["", "a", "b", "ab", "ba"])


@given(rows=st.lists(st.tuples(SMALL, SMALL, SMALL), max_size=12))
def test_repeated_and_contradictory_pairs_are_counted(rows: list[tuple[str, str, str]]) -> None:
    rows = [row for row in rows if row[1] != row[2]]
    statistics = FeedbackStatistics()
    again = contradictory = 0
    before: list[tuple[str, str, str]] = []
    for prompt, chosen, rejected in rows:
        statistics.add(Feedback(prompt, (chosen, rejected)))
        again += (prompt, chosen, rejected) in before
        contradictory += (prompt, rejected, chosen) in before
        before.append((prompt, chosen, rejected))
    assert (statistics.num_rows, statistics.num_repeated, statistics.num_contradictory) == (len(rows), again, contradictory)
    assert len(statistics.prompts) == len({prompt for prompt, _, _ in rows})
    lengths = Counter((len(chosen) > len(rejected)) - (len(chosen) < len(rejected)) for _, chosen, rejected in rows)
    assert (statistics.num_chosen_longer, statistics.num_chosen_shorter) == (lengths[1], lengths[-1])


@given(rows=st.lists(st.tuples(SMALL, SMALL, st.booleans()), max_size=12))
def test_labels_that_contradict_each_other_are_counted(rows: list[tuple[str, str, bool]]) -> None:
    statistics, before, contradictory = FeedbackStatistics(), set(), 0
    for prompt, completion, good in rows:
        statistics.add(Feedback(prompt, (completion,), desirable=good))
        contradictory += (prompt, completion, not good) in before
        before.add((prompt, completion, good))
    assert statistics.num_contradictory == contradictory
    assert statistics.num_undesirable == sum(not good for _, _, good in rows)


def test_remarks_are_made_of_what_there_is() -> None:
    train, held_out = FeedbackStatistics(), FeedbackStatistics()
    assert data_warnings("pairs", train, held_out) == []
    train.add(Feedback("p", ("aa", "b"), scores=(0.0, 1.0)))
    train.add(Feedback("p", ("b", "aa"), scores=(1.0, 0.0)))
    train.add(Feedback("p", ("b", "aa"), scores=(1.0, 0.0)))
    held_out.add(Feedback("p", ("c", "d")))
    held_out.add(Feedback("q", ("c", "d")))
    assert data_warnings("pairs", train, held_out) == [
        "of the 3 pairs to train on, 1 repeat another one",
        "of the 3 pairs to train on, 2 contradict another one",
        "of the 3 pairs to train on, 1 score the rejected side higher",
        "1 of the 2 prompts held out are also trained on",
        "the chosen side is the longer one in 33% of the pairs to train on that differ in length",
    ]


def rows(count: int, **more: Any) -> str:
    return "".join(json.dumps({"prompt": f"p{i}", "chosen": "a", "rejected": "b", **more}) + "\n" for i in range(count))


def test_rows_that_are_given_to_hold_out_are_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "train").write_text(rows(20) + json.dumps({"prompt": "p3", "chosen": "b", "rejected": "a"}))
    (tmp_path / "eval").write_text(rows(5))
    corpus = PairsSource(path=str(tmp_path / "train"), eval_path=str(tmp_path / "eval")).load()
    assert corpus.counts["left out, also held out"] == 6
    assert [row.prompt for row in corpus.train] == [f"p{i}" for i in range(5, 20)]
    assert [row.prompt for row in corpus.eval] == [f"p{i}" for i in range(5)]
    assert corpus.counts == {"pairs read": 26, "left out, also held out": 6, "pairs to train on": 15, "pairs held out": 5}


def test_rows_that_are_there_to_evaluate_on_are_never_trained_on(tmp_path: Path) -> None:
    (tmp_path / "train").write_text(rows(20))
    (tmp_path / "eval").write_text(rows(5, canary="do not train on this"))
    both = {"path": str(tmp_path / "train"), "eval_path": str(tmp_path / "eval")}
    assert len(PairsSource(**both).load().eval) == 5
    with pytest.raises(ValueError, match=r"eval:1: a row with a 'canary' is there to evaluate on, .*data\.eval_path"):
        PairsSource(path=str(tmp_path / "eval")).load()


def test_a_conversation_is_on_one_side_of_the_split_whatever_its_length(tmp_path: Path) -> None:
    def turns(i: int, count: int) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[j % 2], "content": f"{i} {j}"} for j in range(count)]

    lines = [{"prompt": turns(i, n), "chosen": "yes", "rejected": "no"} for i in range(30) for n in (1, 3, 5)]
    (tmp_path / "a").write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = PairsSource(path=str(tmp_path / "a"), eval_share=0.3).load()
    sides = [{row.prompt[0] for row in side} for side in (corpus.train, corpus.eval)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 30
    system = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v"))
    assert split_text(system) == split_text(system[:2]) != split_text(system[1:])
