"""Rewards: a lexicon is exact, a classifier learns what can be learned and comes back from disk."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from dpo_lab.preferences.rewards import REWARDS

VALUES = {"good": 1.0, "bad": -1.5, "great": 2.25}


def toy(num: int = 60, seed: int = 0) -> list[tuple[str, bool]]:
    """Texts whose class is the one telling word in them."""
    draw = random.Random(seed)
    noise = ["the", "film", "was", "a", "story", "of", "two"]
    rows = []
    for i in range(num):
        words = [*draw.choices(noise, k=5), draw.choice(["good", "lovely"] if i % 2 else ["bad", "dreadful"])]
        draw.shuffle(words)
        rows.append((" ".join(words), bool(i % 2)))
    return rows


@given(texts=st.lists(st.lists(st.sampled_from(["good", "bad", "great", "film", "Good", "good,"]), max_size=5), max_size=4))
@example(texts=[[]])
def test_a_lexicon_reward_is_the_sum_of_the_values_of_the_words(texts: list[list[str]]) -> None:
    found = REWARDS["lexicon"](values=VALUES).load(Path())([" ".join(words) for words in texts])
    assert found.dtype == torch.float32
    assert found.tolist() == [sum(VALUES.get(word, 0.0) for word in words) for words in texts]


@pytest.mark.parametrize("values", [{}, {"good": 0.0}])
def test_a_lexicon_without_a_value_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"reward\.values must give some word a value, for example"):
        REWARDS["lexicon"](values=values)


def test_the_choice_of_no_reward_has_no_scorer() -> None:
    assert REWARDS["none"]().load(Path()) is None


def test_a_sentiment_reward_learns_what_is_separable_and_0_is_the_line(tmp_path: Path) -> None:
    spec = REWARDS["sentiment"](strength=1.0)
    spec.fit(toy(), tmp_path)
    held_out = toy(seed=1)
    found = spec.load(tmp_path)([text for text, _ in held_out])
    assert found.shape == (60,)
    assert [bool(x > 0) for x in found] == [label for _, label in held_out]
    better, worse = spec.load(tmp_path)(["a lovely story", "a dreadful story"])
    assert better > worse


def test_a_sentiment_reward_is_scikit_learns_log_odds(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = zip(*toy(), strict=True)
    counts = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"\b\w[\w']*\b")
    oracle = make_pipeline(counts, LogisticRegression(C=0.1, solver="liblinear", random_state=0)).fit(texts, labels)
    spec = REWARDS["sentiment"](strength=0.1)
    spec.fit(toy(), tmp_path)
    others = ["good bad film", "", "two stories, never seen", "lovely " * 9]
    found = spec.load(tmp_path)(others)
    torch.testing.assert_close(found.double(), torch.tensor(oracle.decision_function(others)), rtol=1e-5, atol=1e-5)


def test_a_fitted_reward_comes_back_from_disk_and_fitting_again_gives_the_same_bytes(tmp_path: Path) -> None:
    spec = REWARDS["sentiment"]()
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        spec.fit(toy(), tmp_path / run)
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    texts = [text for text, _ in toy(seed=3)]
    # Its settings at loading do not matter: what was fitted is what scores.
    other = REWARDS["sentiment"](ngrams=1, max_features=3, strength=9.0)
    assert torch.equal(spec.load(tmp_path / "one")(texts), other.load(tmp_path / "two")(texts))


@pytest.mark.parametrize("labelled", [[("a good film", True)] * 3, []], ids=["one class", "nothing"])
def test_labels_of_one_class_are_refused(tmp_path: Path, labelled: list[tuple[str, bool]]) -> None:
    with pytest.raises(ValueError, match="reward=sentiment needs labelled texts of both classes"):
        REWARDS["sentiment"]().fit(labelled, tmp_path)


WRONG: list[dict[str, Any]] = [{"max_features": 0}, {"ngrams": 0}, {"strength": 0.0}, {"strength": -1.0}]


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_a_wrong_setting_is_refused_by_its_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"reward\.{next(iter(settings))} must"):
        REWARDS["sentiment"](**settings)
