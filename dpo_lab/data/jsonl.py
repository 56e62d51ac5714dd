"""Labelled pairs from a JSON Lines file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dpo_lab.artifacts import file_digest
from dpo_lab.data.base import DATA, Corpus, DataSource, Preference, share_of

REQUIRED = ("prompt", "chosen", "rejected")


@DATA.register
@dataclass
class JSONLSource(DataSource):
    """One object a line with the strings `prompt`, `chosen`, `rejected`, and optionally `confidence` in [.5, 1].

    Completions are appended to their prompt as they are: write the space between them. The split is by a hash of the prompt,
    so a prompt is either trained on or held out, never both. Pairs without a choice to learn (an empty completion, or two
    equal ones) are left out and counted.
    """

    name: str = "jsonl"
    has_pairs: ClassVar[bool] = True
    path: str = ""
    eval_share: float = 0.1
    """Share of the prompts that is held out."""

    def __post_init__(self) -> None:
        if not 0 < self.eval_share < 1:
            raise ValueError(f"data.eval_share must be between 0 and 1, got {self.eval_share}")

    def load(self) -> Corpus:
        pairs = self._read()
        usable = [p for p in pairs if p.chosen and p.rejected and p.chosen != p.rejected]
        train = [p for p in usable if share_of(p.prompt) >= self.eval_share]
        held_out = [p for p in usable if share_of(p.prompt) < self.eval_share]
        if not train or not held_out:
            raise ValueError(
                f"{self.path}: {len(usable)} usable pairs leave {len(train)} to train on and {len(held_out)} held out; "
                "both are needed: give more prompts, or another data.eval_share"
            )
        return Corpus(
            text=[p.prompt + p.chosen for p in train],
            train_prompts=list(dict.fromkeys(p.prompt for p in train)),
            eval_prompts=list(dict.fromkeys(p.prompt for p in held_out)),
            train=train,
            eval=held_out,
            counts={
                "pairs read": len(pairs),
                "left out, empty completion": sum(not (p.chosen and p.rejected) for p in pairs),
                "left out, identical pair": sum(bool(p.chosen) and p.chosen == p.rejected for p in pairs),
                "pairs to train on": len(train),
                "pairs held out": len(held_out),
            },
        )

    def fingerprint(self) -> dict[str, Any]:
        return {"sha256": file_digest(self._file())}

    def _file(self) -> Path:
        if not self.path:
            raise ValueError("data.path is not set: data=jsonl needs data.path=FILE.jsonl")
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise ValueError(f"data.path: there is no file {self.path}")
        return file

    def _read(self) -> list[Preference]:
        pairs = []
        with self._file().open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{self.path}:{number}"
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{where}: not UTF-8 (byte {error.start} of the line: {error.reason})") from error
                if text.strip():
                    pairs.append(_pair(text, where))
        if not pairs:
            raise ValueError(f"{self.path}: the file holds no pairs")
        return pairs


def _pair(line: str, where: str) -> Preference:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with {', '.join(REQUIRED)}, found {type(row).__name__}")
    for key in REQUIRED:
        if key not in row:
            raise ValueError(f"{where}: no '{key}' field; found {sorted(row)}")
        if not isinstance(row[key], str):
            raise ValueError(f"{where}: '{key}' must be a string, found {type(row[key]).__name__}")
        if any("\ud800" <= char <= "\udfff" for char in row[key]):
            raise ValueError(f"{where}: '{key}' holds half a character (a lone surrogate, \\ud800 to \\udfff)")
    confidence = row.get("confidence", 1.0)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.5 <= confidence <= 1:
        raise ValueError(f"{where}: 'confidence' must be a number in [0.5, 1], found {confidence!r}")
    return Preference(row["prompt"], row["chosen"], row["rejected"], float(confidence))
