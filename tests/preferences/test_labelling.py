"""Samples of their own: every one is kept with its reward, and is desirable where that is high enough."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from batches import samples
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.preferences.labelling import Labels
from dpo_lab.preferences.sampled import Pairing, SampledCandidates
from dpo_lab.records import CandidateBatch

SCORES = st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=1, max_size=4)


def marked(batch: CandidateBatch) -> list[tuple[int, int]]:
    """Prompt and sample of each completion of its own, by their marks."""
    assert batch.num_candidates == 1
    marks = batch.completions[0, :, 0].tolist()
    assert [mark // 10 for mark in marks] == batch.prompt[:, 0].tolist()
    return [(mark // 10, mark % 10) for mark in marks]


@given(scores=SCORES, above=st.none() | st.sampled_from([-5.0, 0.0, 0.5, 2.0]))
def test_unpaired_samples_are_all_there_and_desirable_where_their_reward_is_above(
    scores: list[list[int]], above: float | None
) -> None:
    made, counts = SampledCandidates(pairing=Pairing.unpaired, desirable_above=above).pairs(samples(scores))
    threshold = sum(map(sum, scores)) / (4 * len(scores)) if above is None else above
    found = marked(made)
    assert sorted(found) == [(b, k) for b in range(len(scores)) for k in range(4)]
    assert made.scores is not None
    assert made.desirable is not None
    for (b, k), reward, desirable in zip(found, made.scores[0].tolist(), made.desirable[0].tolist(), strict=True):
        assert reward == scores[b][k]
        assert desirable == (scores[b][k] > threshold)
    good = sum(score > threshold for row in scores for score in row)
    assert counts == {"completions": len(found), "desirable": good, "undesirable": len(found) - good}
    assert made.ids.tolist() == list(range(len(found)))


@given(scores=st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=2, max_size=4), data=st.data())
def test_a_selected_sample_keeps_its_reward_and_label_and_its_neighbour_has_another_prompt(
    scores: list[list[int]], data: st.DataObject
) -> None:
    made, _ = SampledCandidates(pairing=Pairing.unpaired).pairs(samples(scores))
    rows = data.draw(st.permutations(range(len(made))))
    picked = made.select(torch.tensor(rows))
    assert picked.scores is not None
    assert picked.desirable is not None
    mean = sum(map(sum, scores)) / (4 * len(scores))
    for i, (b, k) in enumerate(marked(picked)):
        assert picked.scores[0, i] == scores[b][k]
        assert picked.desirable[0, i] == (scores[b][k] > mean)
    prompts = made.prompt[:, 0].tolist()
    assert all(one != other for one, other in itertools.pairwise([*prompts, prompts[0]]))


@given(reward=st.floats(-10, 10, width=32), count=st.integers(1, 7))
def test_no_sample_is_above_the_mean_of_equal_rewards(reward: float, count: int) -> None:
    drawn = samples([[0, 0, 0]] * count)
    drawn.scores = torch.full((3, count), reward)
    _, counts = SampledCandidates(pairing=Pairing.unpaired).pairs(drawn)
    assert counts["desirable"] == 0


def test_held_out_samples_are_desirable_by_the_mean_of_the_training_samples() -> None:
    spec = SampledCandidates(pairing=Pairing.unpaired)
    made, _ = spec.pairs(samples([[0, 1, 2, 3]]), like=samples([[2, 2, 2, 2]]))
    assert made.desirable is not None
    assert made.desirable[0].tolist() == [False, False, False, True]


@pytest.mark.parametrize("above", [None, 1.0])
def test_bradley_terry_samples_are_desirable_with_their_probability(above: float | None) -> None:
    spec = SampledCandidates(
        pairing=Pairing.unpaired, labels=Labels.bradley_terry, label_temperature=2.0, desirable_above=above
    )
    made, counts = spec.pairs(samples([[0, 3]] * 4000))
    assert made.scores is not None
    assert made.desirable is not None
    for reward in (0, 3):
        share = float(made.desirable[made.scores == reward].float().mean())
        # Standard deviation at most .008 with 4,000 samples, four of them.
        assert share == pytest.approx(1 / (1 + math.exp(-(reward - (1.5 if above is None else above)) / 2)), abs=0.032)
    assert counts["desirable"] == int(made.desirable.sum())


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"candidates\.labels=soft cannot be used with candidates\.pairing=unpaired: .* or it is not"
    ):
        SampledCandidates(pairing=Pairing.unpaired, labels=Labels.soft)
    with pytest.raises(ValueError, match=r"desirable_above is for candidates\.pairing=unpaired, got it with pairing=all"):
        SampledCandidates(desirable_above=0.0)
