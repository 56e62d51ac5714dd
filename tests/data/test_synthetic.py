"""The made-up language: deterministic, of the given words, with held-out sentences."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.data.synthetic import SyntheticSource

SEEDS = st.integers(0, 1000)


@given(
    words=st.lists(st.sampled_from("abcdef"), min_size=2, max_size=6, unique=True),
    num_words=st.integers(2, 6),
    prompt_words=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_sentences_and_prompts_have_the_given_words_and_lengths(
    words: list[str], num_words: int, prompt_words: int, seed: int
) -> None:
    prompt_words = min(prompt_words, num_words - 1)
    source = SyntheticSource(words=words, num_sentences=30, num_words=num_words, prompt_words=prompt_words, seed=seed)
    corpus = source.load()
    assert {len(text.split(" ")) for text in corpus.text} == {num_words}
    assert set(" ".join(corpus.text + corpus.eval_prompts).split()) <= set(words)
    assert {len(prompt.split(" ")) for prompt in corpus.train_prompts + corpus.eval_prompts} == {prompt_words}
    assert [text.split(" ")[:prompt_words] for text in corpus.text] == [prompt.split(" ") for prompt in corpus.train_prompts]
    assert len(corpus.text) + len(corpus.eval_prompts) == 30


@given(
    num_sentences=st.integers(20, 400), prompt_words=st.integers(1, 4), sharpness=st.sampled_from([0.0, 1.0, 3.0]), seed=SEEDS
)
def test_no_prompt_is_both_trained_on_and_held_out(num_sentences: int, prompt_words: int, sharpness: float, seed: int) -> None:
    source = SyntheticSource(num_sentences=num_sentences, prompt_words=prompt_words, sharpness=sharpness, seed=seed)
    corpus = source.load()
    trained, held_out = set(corpus.train_prompts), set(corpus.eval_prompts)
    assert not trained & held_out
    assert not [text for text in corpus.text if text.startswith(tuple(f"{prompt} " for prompt in held_out))]
    assert len(held_out) == max(round(0.2 * len(trained | held_out)), 1)
    assert corpus.counts["different prompts held out"] == len(held_out)


def test_what_has_one_prompt_only_is_refused() -> None:
    with pytest.raises(ValueError, match="all sentences have one prompt"):
        [SyntheticSource(words=["a", "b"], prompt_words=1, num_sentences=10, seed=seed).load() for seed in range(10_000)]


def test_words_follow_each_other_as_often_as_the_chain_says() -> None:
    source = SyntheticSource(words=["a", "b", "c"], num_sentences=8000, num_words=6, prompt_words=5)
    rows = source._sentences()
    counts = torch.zeros(3, 3, dtype=torch.float64)
    counts.index_put_((rows[:, :-1].flatten(), rows[:, 1:].flatten()), torch.tensor(1.0).double(), accumulate=True)
    # Some 13,000 pairs a row: a standard deviation of .0044; 4.5 of them.
    torch.testing.assert_close(counts / counts.sum(dim=1, keepdim=True), source.chain(), rtol=0, atol=0.02)
    first = rows[:, 0].bincount(minlength=3) / len(rows)
    torch.testing.assert_close(first, torch.full((3,), 1 / 3), rtol=0, atol=0.024)


def test_more_sentences_begin_with_the_same_ones() -> None:
    few, many = (SyntheticSource(num_sentences=n)._sentences() for n in (20, 30))
    assert many[:20].equal(few)


def test_the_seed_decides_everything() -> None:
    assert SyntheticSource(seed=1).load() == SyntheticSource(seed=1).load()
    assert SyntheticSource(seed=1).load().text != SyntheticSource(seed=2).load().text


def test_sharpness_makes_the_language_predictable() -> None:
    def likeliest(sharpness: float) -> float:
        pairs = Counter(
            pair
            for text in SyntheticSource(sharpness=sharpness).load().text
            for pair in zip(text[::2], text[2::2], strict=False)
        )
        return sum(max(pairs[a, b] for b in "abcdefgh") for a in "abcdefgh") / pairs.total()

    # A share of 1/8 without any preference, up to the excess of the largest of eight counts of some 500.
    assert likeliest(0.0) < 0.15 < 0.25 < likeliest(1.0) < likeliest(5.0)
    assert likeliest(5.0) > 0.7


WRONG: dict[str, dict[str, Any]] = {
    "words": {"words": ["a", "a"]},
    "prompt_words": {"prompt_words": 12},
    "num_sentences": {"num_sentences": 3},
}


@pytest.mark.parametrize(("field", "settings"), WRONG.items(), ids=WRONG)
def test_a_wrong_setting_is_refused_by_its_name(field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"data\.{field} must"):
        SyntheticSource(**settings)
