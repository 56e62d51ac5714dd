"""Runs of review text: common words only, and held-out prompts from reviews that nothing else uses."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from fixtures_imdb import write_reviews

from dpo_lab.data.base import Corpus, share_of
from dpo_lab.data.imdb import IMDbSource

WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("imdb") / "reviews.csv", 300)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def written(path: Path, rows: list[dict[str, str]]) -> IMDbSource:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("text", "label", "source"))
        writer.writeheader()
        writer.writerows(rows)
    return IMDbSource(path=str(path))


def load(path: Path, **options: Any) -> Corpus:
    return IMDbSource(path=str(path), **options).load()


def test_our_own_reviews_are_many_and_the_same_every_time(reviews: Path, tmp_path: Path) -> None:
    assert write_reviews(tmp_path / "again.csv", 300).read_bytes() == reviews.read_bytes()
    corpus = load(reviews)
    assert corpus.counts["reviews"] == 300
    assert corpus.counts["held-out prompts"] == len(corpus.eval_prompts)
    assert not set(corpus.train_prompts) & set(corpus.eval_prompts)
    assert len(corpus.text) >= 1500
    assert len(corpus.eval_prompts) >= 50
    assert 0.4 < sum(label for _, label in corpus.labelled) / len(corpus.labelled) < 0.6
    text = reviews.read_text()
    assert "<br />" in text
    assert "(" in text


@pytest.mark.parametrize("common_words", [120, 2000])
def test_runs_hold_common_words_and_plain_marks_only(reviews: Path, common_words: int) -> None:
    corpus = load(reviews, common_words=common_words, eval_share=0.3)
    words = set(WORD.findall(" ".join(corpus.text + corpus.fragments + corpus.eval_prompts))) - set(".,!?")
    assert len(words) <= common_words
    assert all(word[0].isalpha() and word == word.lower() for word in words)
    # No word is left out that is more frequent, in what is fitted on, than one that is in.
    texts = {row["text"] for row in rows_of(reviews) if row["source"] == "imdb"}
    found = " ".join(text for text in texts if share_of(text) >= 0.3).lower().replace("<br />", " ")
    counts = {word: len(re.findall(rf"(?<![\w'-]){re.escape(word)}(?![\w'-])", found)) for word in set(WORD.findall(found))}
    allowed = sorted((count for word, count in counts.items() if word[0].isalpha()), reverse=True)[:common_words]
    assert all(counts[word] >= allowed[-1] for word in words)


def test_runs_have_the_wanted_lengths_and_begin_with_their_prompt(reviews: Path) -> None:
    corpus = load(reviews, min_words=13, max_words=20, prompt_words=5)
    assert {len(WORD.findall(text)) for text in corpus.text} <= set(range(13, 21))
    assert {len(WORD.findall(text)) for text in corpus.fragments} <= set(range(6, 21))
    assert all(text[-1] in ".!?" for text in corpus.text)
    prompts = {" ".join(WORD.findall(text)[:5]) for text in corpus.text + corpus.fragments}
    assert {" ".join(WORD.findall(prompt)) for prompt in corpus.train_prompts} == prompts
    assert len(set(corpus.train_prompts)) == len(corpus.train_prompts)


def test_every_run_stands_in_a_review_word_for_word_and_spans_no_line_break(reviews: Path) -> None:
    corpus = load(reviews)
    lines = [" ".join(WORD.findall(line.lower())) for row in rows_of(reviews) for line in row["text"].split("<br />")]
    everything = "\n".join(lines)
    for text in corpus.text + corpus.fragments:
        assert " ".join(WORD.findall(text)) in everything


def test_held_out_prompts_come_from_reviews_that_nothing_else_uses(reviews: Path, tmp_path: Path) -> None:
    rows = [row for row in rows_of(reviews) if row["source"] == "imdb"]
    whole = load(reviews, eval_share=0.2)
    held_out = [row for row in rows if share_of(row["text"]) < 0.2]
    assert 0 < len(held_out) < len(rows)
    labelled = {text for text, _ in whole.labelled}
    assert not labelled & {row["text"] for row in held_out}
    assert len(whole.labelled) + len({row["text"] for row in held_out}) == whole.counts["reviews"]
    assert not set(whole.eval_prompts) & set(whole.train_prompts)
    places = "\n".join(" ".join(WORD.findall(row["text"].lower())) for row in held_out)
    assert all(" ".join(WORD.findall(prompt)) in places for prompt in whole.eval_prompts)


@pytest.mark.parametrize("common_words", [120, 2000])
def test_other_held_out_reviews_change_nothing_that_is_fitted(reviews: Path, tmp_path: Path, common_words: int) -> None:
    rows = [row for row in rows_of(reviews) if row["source"] == "imdb"]
    kept = [row for row in rows if share_of(row["text"]) >= 0.3]
    one_left = next(row for row in rows if share_of(row["text"]) < 0.3)
    written(tmp_path / "fewer.csv", [*kept, one_left])
    options = {"eval_share": 0.3, "common_words": common_words}
    whole, fewer = load(reviews, **options), load(tmp_path / "fewer.csv", **options)
    assert len(fewer.eval_prompts) < len(whole.eval_prompts)
    for field in ("text", "fragments", "train_prompts", "labelled"):
        assert getattr(whole, field) == getattr(fewer, field)


def test_duplicates_and_other_sources_are_dropped(reviews: Path, tmp_path: Path) -> None:
    rows = rows_of(reviews)
    distinct = list({row["text"]: row for row in rows if row["source"] == "imdb"}.values())
    assert len(distinct) < sum(row["source"] == "imdb" for row in rows) < len(rows)
    again, once = load(reviews), written(tmp_path / "once.csv", distinct).load()
    for field in ("text", "fragments", "train_prompts", "eval_prompts", "labelled"):
        assert getattr(again, field) == getattr(once, field)
    assert again.counts["reviews"] == len(distinct) == 300


def test_labels_are_those_of_the_file(reviews: Path) -> None:
    labels = {row["text"].replace("<br /><br />", " "): row["label"] == "1" for row in rows_of(reviews)}
    assert all(labels[text] == label for text, label in load(reviews).labelled)


def review(i: int, **changes: str) -> dict[str, str]:
    return {"text": f"number {i} is a film that all of us liked a lot.", "label": "1", "source": "imdb"} | changes


def test_a_bad_label_is_refused_with_its_file_and_line(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", [review(1), review(2, label="positive")])
    with pytest.raises(ValueError, match=rf"{tmp_path}/r.csv:3: label must be 0 or 1, found 'positive'"):
        source.load()


def test_a_missing_column_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("text,label\nx,1\n")
    with pytest.raises(ValueError, match=r"r.csv: no column source; found \['text', 'label'\]"):
        load(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text("")
    with pytest.raises(ValueError, match=r"no column label, source, text"):
        load(tmp_path / "r.csv")
    with pytest.raises(ValueError, match=r"data\.path: there is no file .*nowhere"):
        load(tmp_path / "nowhere")


def test_a_short_row_and_a_byte_that_is_no_utf_8_are_refused_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("source,label,text\nimdb,1\n")
    with pytest.raises(ValueError, match=r"r\.csv:2: "):
        load(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_bytes(b"text,label,source\ncaf\xe9 is a film.,1,imdb\n")
    with pytest.raises(ValueError, match=r"r\.csv"):
        load(tmp_path / "r.csv")


def test_too_little_text_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data=imdb: nothing left .*raise data\.common_words"):
        written(tmp_path / "r.csv", [review(1)]).load()


WRONG: list[dict[str, Any]] = [
    {"prompt_words": 0},
    {"prompt_words": 12},
    {"min_words": 30},
    {"common_words": 0},
    {"eval_share": 0.0},
    {"eval_share": 1.0},
]


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_a_wrong_setting_is_refused_by_its_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"data\.{next(iter(settings))}"):
        IMDbSource(**settings)


def test_the_fingerprint_is_that_of_the_bytes(reviews: Path, tmp_path: Path) -> None:
    other = write_reviews(tmp_path / "other.csv", 300, seed=1)
    again = write_reviews(tmp_path / "again.csv", 300)
    one = IMDbSource(path=str(reviews)).fingerprint()
    assert one == IMDbSource(path=str(again)).fingerprint() != IMDbSource(path=str(other)).fingerprint()
