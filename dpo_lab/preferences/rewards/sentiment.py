"""A sentiment classifier as the reward, fitted on labelled reviews."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpo_lab.preferences.rewards.base import REWARDS, RewardSpec, Scorer

WORDS = r"\b\w[\w']*\b"
SENTENCE = re.compile(r"[^.!?]+[.!?]*")


class Unit(Enum):
    """The texts that the classifier is fitted on: whole documents, or their sentences, each with its document's label."""

    document = "document"
    sentence = "sentence"


@REWARDS.register
@dataclass
class SentimentReward(RewardSpec):
    """Log-odds that a text is positive, by logistic regression on which words and word pairs occur in it (scikit-learn)."""

    name: str = "sentiment"
    max_features: int = 20000
    """Most frequent words and word pairs that are read."""
    ngrams: int = 2
    """Longest run of words that is a feature."""
    strength: float = 0.02
    """Inverse of the L2 penalty (scikit-learn's C)."""
    unit: Unit = Unit.document
    """A classifier of sentences is better at short texts."""
    max_texts: int = 30000
    """Most texts to fit on, evenly spread over all."""

    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in ("max_features", "ngrams", "max_texts"):
            if getattr(self, field) < 1:
                raise ValueError(f"reward.{field} must be at least 1, got {getattr(self, field)}")
        if not self.strength > 0:
            raise ValueError(f"reward.strength must be > 0, got {self.strength}")

    def fit(self, labelled: Sequence[tuple[str, bool]], directory: Path) -> None:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression

        units = list(labelled)
        if self.unit is Unit.sentence:
            units = [(sentence, label) for text, label in labelled for sentence in SENTENCE.findall(text)]
        units = units[:: -(-len(units) // self.max_texts) or 1]
        texts, labels = zip(*units, strict=True) if units else ((), ())
        if len(set(labels)) < 2:
            raise ValueError("reward=sentiment needs labelled texts of both classes")
        vectorizer = CountVectorizer(
            binary=True, ngram_range=(1, self.ngrams), max_features=self.max_features, token_pattern=WORDS
        )
        model = LogisticRegression(C=self.strength, solver="liblinear", random_state=0)
        model.fit(vectorizer.fit_transform(texts), labels)
        fitted = {"weight": torch.tensor(model.coef_[0]).float(), "bias": torch.tensor(model.intercept_).float()}
        save_file(fitted, directory / "model.safetensors")
        features = [str(feature) for feature in vectorizer.get_feature_names_out()]
        (directory / "features.json").write_text(json.dumps({"ngrams": self.ngrams, "features": features}))

    def load(self, directory: Path) -> Scorer:
        from sklearn.feature_extraction.text import CountVectorizer

        saved = json.loads((directory / "features.json").read_text())
        model = load_file(directory / "model.safetensors")
        vectorizer = CountVectorizer(
            binary=True, ngram_range=(1, saved["ngrams"]), vocabulary=saved["features"], token_pattern=WORDS
        )
        weight, bias = model["weight"].numpy(), float(model["bias"])

        def scorer(texts: Sequence[str]) -> Float[Tensor, " n"]:
            return torch.tensor(vectorizer.transform(texts) @ weight + bias, dtype=torch.float32)

        return scorer
