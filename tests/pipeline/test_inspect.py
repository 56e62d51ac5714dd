"""Looking at data: what is shown is what training would see, and nothing is trained."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dpo_lab.artifacts.store import Store
from dpo_lab.cli.composing import composed
from dpo_lab.pipeline.base import runner_of
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.tracking import Console, RunDirectory
from dpo_lab.training.checkpoints import Checkpoints

ROWS = [{"prompt": f"item {i} is", "chosen": " good é🙂", "rejected": " bad" + "!" * i} for i in range(40)]
ROWS += [{"prompt": "item 3 is", "chosen": " bad!!!", "rejected": " good é🙂", "source": "x"}]
ROWS += [{"prompt": "same", "chosen": " x", "rejected": " x"}]


def inspected(folder: Path, *words: str) -> tuple[dict[str, float], str]:
    """The summary, and what was printed."""
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = composed(["runner=inspect", "data=pairs", f"data.path={folder}/pairs.jsonl", "tokenizer=byte", *words])
    study = to_study(config)
    runner_of(study).check(study)
    printed = io.StringIO()
    run = RunDirectory.create(folder / "runs", "look", label=str(len(words)))
    run.write_config(OmegaConf.to_yaml(config, resolve=True))
    console = Console(printed, width=120)
    kept = Checkpoints(run.path / "checkpoints", "", console.warn)
    context = Context(study, console, run, Store(folder / "artifacts"), kept)
    try:
        return runner_of(study).run(context), printed.getvalue()
    finally:
        run.close()


def test_it_says_how_the_data_is_read_and_what_is_odd_about_it(tmp_path: Path) -> None:
    summary, printed = inspected(tmp_path, "data.eval_share=0.4", "candidates.max_tokens=13", "runner.num_shown=40")
    assert "pairs.jsonl: read as data.format=text, with prompt, chosen, rejected" in printed
    assert "fields that are not read: 'source' (1 rows)" in printed
    assert "1 contradict another one" in printed
    assert "1 left out, identical completions" in printed
    assert "left out, completion over max_tokens" in printed
    # Of the first forty, nine have a rejected side of at most 13 bytes with its end token: 8 shorter than the other, one equal.
    assert summary["train/rows"] + summary["eval/rows"] == 9 + 1
    assert sum(summary[f"{side}/chosen_longer"] * summary[f"{side}/rows"] for side in ("train", "eval")) == pytest.approx(8)
    assert sum(summary[f"{side}/same_length"] * summary[f"{side}/rows"] for side in ("train", "eval")) == pytest.approx(1)
    assert "chosen (13 tokens)" in printed
    assert " good é🙂</s>" in printed, "the end token is scored, and shown"
    assert "<s>item " in printed
    assert {folder.name for folder in (tmp_path / "artifacts").iterdir()} == {"tokenizer", "pairs"}, "nothing is trained"
    again, repeated = inspected(tmp_path, "data.eval_share=0.4", "candidates.max_tokens=13", "runner.num_shown=40")
    assert again == summary
    assert "1 contradict another one" in repeated, "said each time, also where the tokens are there already"


def test_it_is_refused_where_nothing_is_labelled() -> None:
    study = to_study(composed(["runner=inspect"]))
    with pytest.raises(ValueError, match="runner=inspect looks at labelled data: choose data=pairs"):
        runner_of(study).check(study)
    with pytest.raises(ValueError, match=r"runner\.num_shown must be at least 0, got -1"):
        to_study(composed(["runner=inspect", "runner.num_shown=-1"]))


def test_rows_that_cannot_become_tokens_obey_on_bad_row(tmp_path: Path) -> None:
    words = ["candidates.on_long_completion=error", "candidates.max_tokens=24", "runner.num_shown=0"]
    with pytest.raises(ValueError, match=r"pairs\.jsonl:\d+: a completion of \d+ tokens, over candidates\.max_tokens=24"):
        inspected(tmp_path, *words)
    summary, printed = inspected(tmp_path, *words, "data.on_bad_row=skip")
    # " bad" and so many !, and the end token: of 40 rows those from the twentieth on are too long.
    assert summary["train/rows"] + summary["eval/rows"] == 21
    assert len(set(re.findall(r"pairs\.jsonl:(\d+): a completion of", printed))) >= 10
    assert "left out, bad rows" in printed


def test_spelled_special_tokens_are_not_shown_as_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "prompt": f"<s>{row['prompt']}"} for row in ROWS]
    monkeypatch.setitem(globals(), "ROWS", rows)
    _, printed = inspected(tmp_path, "runner.num_shown=3", "data.eval_share=0.4")
    assert printed.count("<s>\\<s>item ") == 3
    assert "it is spelled in characters, and is not that token" in printed
    assert "whose text spells <s>: read as characters" in printed
