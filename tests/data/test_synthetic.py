"""The made-up language: deterministic, of the given words, with held-out sentences."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.data.synthetic import SyntheticSource


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
    assert likeliest(5.0) > 0.8


WRONG: dict[str, dict[str, Any]] = {
    "words": {"words": ["a", "a"]},
    "prompt_words": {"prompt_words": 10},
    "num_sentences": {"num_sentences": 3},
}


@pytest.mark.parametrize(("field", "settings"), WRONG.items(), ids=WRONG)
def test_a_wrong_setting_is_refused_by_its_name(field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"data\.{field} must"):
        SyntheticSource(**settings)
