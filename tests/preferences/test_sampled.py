"""Pairs of samples: which are compared, who wins, how sure that is, and whose rewards they are."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from batches import samples
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.data.tokenizers import TOKENIZERS
from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.preferences.batches import padded
from dpo_lab.preferences.labelling import Labels
from dpo_lab.preferences.sampled import Pairing, SampledCandidates
from dpo_lab.preferences.sampling import draw, prompts_of, texts_of
from dpo_lab.records import CandidateBatch

SCORES = st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=1, max_size=4)
PAIRED = [Pairing.extremes, Pairing.best_worst, Pairing.random]
COMPARED = [Pairing.all, *PAIRED]
LABELLED = [case for case in itertools.product(Pairing, Labels) if case != (Pairing.unpaired, Labels.soft)]


def sides(batch: CandidateBatch) -> list[tuple[int, int, int]]:
    """Prompt, chosen sample and rejected sample of each pair, by their marks."""
    chosen, rejected = batch.completions[:2, :, 0].tolist()
    prompts = batch.prompt[:, 0].tolist()
    assert all(c // 10 == r // 10 == p for c, r, p in zip(chosen, rejected, prompts, strict=True))
    return [(p, c % 10, r % 10) for p, c, r in zip(prompts, chosen, rejected, strict=True)]


@pytest.mark.parametrize("pairing", PAIRED)
@given(scores=SCORES, seed=st.integers(0, 3))
def test_the_chosen_sample_has_the_higher_reward_and_ties_are_left_out(
    pairing: Pairing, scores: list[list[int]], seed: int
) -> None:
    made, counts = SampledCandidates(pairing=pairing, seed=seed).pairs(samples(scores))
    found = sides(made)
    for (prompt, chosen, rejected), rewards in zip(found, made.scores.T.tolist(), strict=True):
        assert scores[prompt][chosen] > scores[prompt][rejected]
        assert rewards == [scores[prompt][chosen], scores[prompt][rejected]]
    per_prompt = 1 if pairing is Pairing.best_worst else 2
    assert counts["pairs"] == len(made) == len(found)
    assert counts["pairs"] + counts["left out, equal rewards"] == per_prompt * len(scores)
    assert made.ids.tolist() == list(range(len(made)))
    assert made.confidence.tolist() == [1.0] * len(made)


@pytest.mark.parametrize("pairing", PAIRED)
@given(scores=st.lists(st.permutations([-1, 0, 2, 3]), min_size=1, max_size=4), seed=st.integers(0, 3))
def test_where_all_rewards_differ_no_pair_is_left_out(pairing: Pairing, scores: list[list[int]], seed: int) -> None:
    _, counts = SampledCandidates(pairing=pairing, seed=seed).pairs(samples(scores))
    assert counts["left out, equal rewards"] == 0


@pytest.mark.parametrize("pairing", PAIRED)
@given(scores=SCORES)
def test_a_sample_is_in_one_pair_at_most(pairing: Pairing, scores: list[list[int]]) -> None:
    made, _ = SampledCandidates(pairing=pairing).pairs(samples(scores))
    used = [(prompt, sample) for prompt, *pair in sides(made) for sample in pair]
    assert len(set(used)) == len(used)


def test_extremes_pair_best_with_worst_and_inwards() -> None:
    scores = samples([[3, 0, 5, 1, 4]])
    assert sides(SampledCandidates(pairing=Pairing.extremes).pairs(scores)[0]) == [(0, 2, 1), (0, 4, 3)]
    assert sides(SampledCandidates(pairing=Pairing.best_worst).pairs(scores)[0]) == [(0, 2, 1)]


def test_random_pairs_are_any_pairs() -> None:
    seen = set()
    for seed in range(100):
        seen |= set(sides(SampledCandidates(pairing=Pairing.random, seed=seed).pairs(samples([[0, 1, 2, 3]]))[0]))
    assert seen == {(0, i, j) for i in range(4) for j in range(i)}


@given(scores=SCORES)
def test_all_samples_of_a_prompt_come_best_first_and_prompts_without_a_choice_are_left_out(scores: list[list[int]]) -> None:
    made, counts = SampledCandidates(pairing=Pairing.all).pairs(samples(scores))
    kept = [p for p, row in enumerate(scores) if len(set(row)) > 1]
    assert made.prompt[:, 0].tolist() == kept
    assert counts == {"prompts": len(kept), "pairs": 6 * len(kept), "prompts left out, equal rewards": len(scores) - len(kept)}
    for i, prompt in enumerate(kept):
        marks = made.completions[:, i, 0].tolist()
        assert sorted(marks) == [10 * prompt + k for k in range(4)]
        assert made.scores[:, i].tolist() == [scores[prompt][mark % 10] for mark in marks]
        assert made.scores[:, i].tolist() == sorted(scores[prompt], reverse=True)


@pytest.mark.parametrize("labels", [Labels.hard, Labels.soft])
@given(scores=SCORES)
def test_of_all_pairs_those_of_equal_rewards_are_no_preference(labels: Labels, scores: list[list[int]]) -> None:
    made, _ = SampledCandidates(pairing=Pairing.all, labels=labels).pairs(samples(scores))
    preferences = made.preferences()
    for q, (i, j) in enumerate(itertools.combinations(range(4), 2)):
        for b in range(len(made)):
            if made.scores[i, b] == made.scores[j, b]:
                assert preferences[q, b] == 0.5, "a tie is trained on as a certain win"


@pytest.mark.parametrize("pairing", COMPARED)
@given(scores=SCORES, temperature=st.sampled_from([0.5, 1.0, 3.0]))
def test_soft_labels_are_the_bradley_terry_probability(pairing: Pairing, scores: list[list[int]], temperature: float) -> None:
    spec = SampledCandidates(pairing=pairing, labels=Labels.soft, label_temperature=temperature)
    made, _ = spec.pairs(samples(scores))
    found = made.preferences()
    for q, (i, j) in enumerate(itertools.combinations(range(made.num_candidates), 2)):
        for b in range(len(made)):
            difference = float(made.scores[i, b] - made.scores[j, b])
            assert float(found[q, b]) == pytest.approx(1 / (1 + math.exp(-difference / temperature)), rel=1e-5)


@pytest.mark.parametrize("pairing", [Pairing.best_worst, Pairing.all])
def test_bradley_terry_labels_fall_with_their_probability(pairing: Pairing) -> None:
    spec = SampledCandidates(pairing=pairing, labels=Labels.bradley_terry, label_temperature=2.0)
    made, _ = spec.pairs(samples([[0, 3]] * 4000))
    share = float((made.scores[0] > made.scores[1]).float().mean())
    # P = sigmoid(3 / 2) = .8176; standard deviation .0061 with 4,000 pairs, four of them.
    assert share == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.025)
    assert made.preferences().unique().tolist() == [1.0]
    assert all(c == (3 if i == 1 else 0) for (_, i, _), c in zip(sides(made), made.scores[0].tolist(), strict=True))


@pytest.mark.parametrize(("pairing", "labels"), LABELLED)
def test_the_seed_decides_the_pairs(pairing: Pairing, labels: Labels) -> None:
    drawn = samples(torch.randint(-3, 4, (20, 6), generator=torch.Generator().manual_seed(0)).tolist())
    one, again = (SampledCandidates(pairing=pairing, labels=labels, seed=4).pairs(drawn)[0] for _ in range(2))
    assert one.tensors().keys() == again.tensors().keys()
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in one.tensors().items())


@pytest.mark.parametrize("pairing", [Pairing.random, Pairing.all, Pairing.best_worst, Pairing.unpaired])
def test_chance_decides_of_a_prompt_by_itself(pairing: Pairing) -> None:
    """Other prompts before and behind it change neither its pairs nor its labels; being held out does."""
    above = 0.0 if pairing is Pairing.unpaired else None
    spec = SampledCandidates(pairing=pairing, labels=Labels.bradley_terry, label_temperature=4.0, desirable_above=above)
    drawn = samples(torch.randint(-3, 4, (60, 6), generator=torch.Generator().manual_seed(0)).tolist())
    some = drawn.select(torch.arange(59, 19, -1))

    def labels(batch: CandidateBatch) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = {}
        good = [True] * len(batch) if batch.desirable is None else batch.desirable[0].tolist()
        for prompt, completions, kind in zip(
            batch.prompt[:, 0].tolist(), batch.completions[..., 0].T.tolist(), good, strict=True
        ):
            found.setdefault(prompt, []).append((completions, kind))
        return found

    every, few = (labels(spec.pairs(batch)[0]) for batch in (drawn, some))
    assert few.items() <= every.items()
    assert labels(spec.pairs(some, like=drawn)[0]) != few, "the same chance for what is held out"


def test_the_rewards_of_drawn_samples_belong_to_their_texts() -> None:
    tokenizer = TOKENIZERS["word"]().train(["a b c d e f"])
    torch.manual_seed(0)
    model = TransformerSpec(dim=8, depth=1, heads=1, context=12).build(tokenizer.vocab_size)
    prompt, prompt_mask = padded([[tokenizer.start, *tokenizer.encode(text)] for text in ("a", "b c d", "e f")])

    def scorer(texts: Any) -> torch.Tensor:
        return torch.tensor([float(sum(map(ord, text))) for text in texts])

    made = draw(model, tokenizer, scorer, prompt, prompt_mask, 4, 5, seed=3, purpose="test")
    assert made.completions.shape[:2] == (4, 3)
    assert prompts_of(made, tokenizer) == ["a", "b c d", "e f"]
    for k in range(4):
        for b, text in enumerate(("a", "b c d", "e f")):
            ids = made.completions[k, b][made.mask[k, b]].tolist()
            joint = tokenizer.decode([*tokenizer.encode(text), *ids])
            assert texts_of(made, tokenizer)[k][b] == joint
            assert float(made.scores[k, b]) == sum(map(ord, joint))
    again, other = (draw(model, tokenizer, None, prompt, prompt_mask, 4, 5, seed=seed, purpose="test") for seed in (3, 4))
    assert torch.equal(again.completions, made.completions)
    assert again.scores is None
    assert other.completions.shape != made.completions.shape or not torch.equal(other.completions, made.completions)


@pytest.mark.parametrize("given", [[1.0], torch.ones(1, 1), torch.ones(2), torch.ones(1, dtype=torch.long)])
def test_a_reward_that_gives_something_else_is_refused(given: Any) -> None:
    tokenizer = TOKENIZERS["word"]().train(["a b"])
    model = TransformerSpec(dim=8, depth=1, heads=1, context=12).build(tokenizer.vocab_size)
    with pytest.raises(ValueError, match="a reward must give a floating-point tensor with a value for each of 1 texts, got "):
        draw(model, tokenizer, lambda texts: given, *padded([[tokenizer.start]]), 2, 2, seed=0, purpose="test")


WRONG: list[dict[str, Any]] = [
    {"samples_per_prompt": 1},
    {"num_prompts": 0},
    {"temperature": 0.0},
    {"label_temperature": -1.0},
    {"max_tokens": 0},
    {"desirable_above": math.inf, "pairing": Pairing.unpaired},
]


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_a_wrong_setting_is_refused_by_its_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"candidates\.{next(iter(settings))} must"):
        SampledCandidates(**settings)


@pytest.mark.parametrize("pairing", COMPARED)
@pytest.mark.parametrize("labels", [Labels.hard, Labels.soft])
def test_two_samples_make_the_same_pair_however_they_are_paired(pairing: Pairing, labels: Labels) -> None:
    made, _ = SampledCandidates(pairing=pairing, labels=labels, samples_per_prompt=2).pairs(samples([[0, 2], [1, 0]]))
    assert sorted(sides(made)) == [(0, 1, 0), (1, 0, 1)]
    certain = {Labels.hard: [1.0, 1.0], Labels.soft: [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))]}[labels]
    order = made.prompt[:, 0].argsort()
    torch.testing.assert_close(made.preferences()[0][order], torch.tensor(certain))
