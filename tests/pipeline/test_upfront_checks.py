"""What is refused before any work, by the data's first row and the names of all that an evaluation measures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dpo_lab.cli.validation import validate
from dpo_lab.losses import PreferenceLoss
from dpo_lab.pipeline.upfront_checks import metric_names, row_kind

PAIR = {"prompt": "a b", "chosen": " c", "rejected": " d"}
SINGLE = {"prompt": "a b", "completion": " c", "label": True}


def given(rows: Sequence[object], words: str = "") -> list[str]:
    Path("x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data=pairs", "data.path=x.jsonl", *words.split()]


WRONG = {
    "a loss of pairs": ([SINGLE], "", "loss=kto"),
    "a loss of scores": ([PAIR], "loss=rebel", "needs the candidates' scores"),
    "a margin of scores": ([PAIR], "loss.margin.score=1", "scores"),
    "a margin of the data": ([PAIR], "loss.margin.data=1", "margins in the data"),
    "a part of a mix": ([SINGLE], "loss=mix loss.parts=[{name:sft},{name:ipo}]", "loss=kto"),
    "a margin of single completions": ([SINGLE], "loss=kto trainer.guards.max_margin=1", "max_drop"),
    "an accuracy of single completions": ([SINGLE], "loss=kto trainer.best_metric=rewards/accuracies", "rewards/accuracies"),
    "a metric of another loss": ([PAIR], "trainer.best_metric=baseline", "'baseline'"),
    "a reward without one": ([PAIR], "trainer.best_metric=reward/policy", "'reward/policy'"),
    "a first row that is none": ([{"prompt": "a b"}], "", "x.jsonl:1"),
    "a split of a file": ([PAIR], "data.split=test", "data.split is for data sets of the hub"),
    "a subset of a file": ([PAIR], "data.subset=en", "data.subset is for data sets of the hub"),
    "best of n without a reward": ([PAIR], "evaluation.best_of=[2]", "reward="),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_data_cannot_serve_is_refused_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows, words, part = WRONG[name]
    with pytest.raises(ValueError, match=part):
        validate(given(rows, words))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([PAIR], "trainer.best_metric=rewards/accuracies trainer.guards.max_margin=1 trainer.guards.max_drop=1"),
        ([PAIR], "trainer.best_metric=kl_se"),
        ([SINGLE], "loss=kto trainer.best_metric=baseline trainer.guards.max_drop=1"),
        ([SINGLE], "loss=aot_unpaired"),
        ([{**PAIR, "score_chosen": 2, "score_rejected": 1}], "loss=rebel loss.margin.score=0"),
        ([PAIR], "loss=mix trainer.best_metric=1.bco"),
    ],
)
def test_what_it_can_is_not(rows: list[object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    validate(given(rows, words))


def test_every_loss_can_say_what_it_will_measure(loss_class: type[PreferenceLoss]) -> None:
    words = ["+experiment=quickstart", f"loss={loss_class.name}", "reference=frozen", "candidates.labels=hard"]
    if not loss_class.max_candidates:
        study = validate(words)
        kind = row_kind(study)
        assert kind is not None
        assert kind.num_candidates == 8
        assert metric_names(study, kind) >= {"loss", "rewards/margins", "displacement/chosen", "win_rate", "kl"}
    if loss_class.min_candidates == 1:
        study = validate([*words, "candidates.pairing=unpaired"])
        names = metric_names(study, row_kind(study))
        assert names >= {"loss", "rewards/chosen"}
        assert "rewards/accuracies" not in names
