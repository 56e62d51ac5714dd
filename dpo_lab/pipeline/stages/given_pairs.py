"""The data's own candidates as tokens."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file

from dpo_lab.artifacts.digests import digest
from dpo_lab.data.row_reader import listed
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.pipeline.stages.text import FORMAT, Text
from dpo_lab.preferences import GivenSource
from dpo_lab.preferences.base import noun
from dpo_lab.records import CandidateBatch

NOTES = "notes.json"


def given_pairs(text: Text, spec: GivenSource, tokenizer: Tokenizer) -> tuple[CandidateBatch, CandidateBatch]:
    """Pairs, rankings or completions to train on, and held-out ones. What is odd about them is printed each time."""
    console = text.context.console

    def build(directory: Path) -> None:
        if not text.corpus.train:
            raise ValueError(f"data={text.study.data.name} has no labelled pairs: choose candidates=sampled and a reward")
        notes = []
        for title, rows in (("train", text.corpus.train), ("held-out", text.corpus.eval)):
            bad: list[str] = []
            on_bad = bad.append if text.study.data.skips_bad_rows else None
            counts = spec.write(rows, tokenizer, directory / f"{title}.safetensors", on_bad)
            effects = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
            notes.append(f"{title}: {len(rows):,} {noun(len(next(iter(rows)).completions))}{effects}")
            notes += [f"  {line}" for line in listed(bad)]
        for note in notes:
            console.note(f"  {note}")
        (directory / NOTES).write_text(json.dumps([*text.corpus.notes, *notes]))

    determined_by = {"text": text.key, "tokenizer": digest(tokenizer.fingerprint()), "candidates": spec, "format": FORMAT}
    with text.context.stage("pairs", spec.name) as stage:
        path, _ = text.artifact(stage, "pairs", determined_by, build, text.code(spec))
        train, held_out = (
            CandidateBatch.from_tensors(load_file(path / f"{title}.safetensors")) for title in ("train", "held-out")
        )
        stage.detail = f"{len(train):,} to train on, {len(held_out):,} held out"
        if not text.was_read:  # else they were printed when it was read
            for note in json.loads((path / NOTES).read_text()):
                console.note(f"  {note}")
    return train, held_out
