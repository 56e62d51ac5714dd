"""A finished run, given its own held-out pairs as a file, finds the numbers that it ended with."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from processes import SMALL_MODEL, runs_of

from dpo_lab.cli.main import run_command

SMALL = [
    *("tokenizer=byte", "candidates.max_tokens=16", "base.trainer.max_steps=3", "base.trainer.batch_size=8", *SMALL_MODEL),
    *("trainer.max_steps=4", "trainer.batch_size=4", "trainer.eval_every=2", "optimizer.lr=0.02"),
    *("evaluation.num_prompts=2", "evaluation.num_prompts_during=2"),
]
PAIRS = [{"prompt": f"item {i} is", "chosen": " good", "rejected": " not" + "!" * (i % 3)} for i in range(24)]
SINGLE = [{"prompt": f"item {i} is", "completion": f" {'good' if i % 2 else 'not'}", "label": bool(i % 2)} for i in range(24)]
ASKED = [{"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in PAIRS]
RANKED = [{"prompt": f"item {i} is", "completions": [" good", " fair", " bad"]} for i in range(24)]

# Of a run: its rows, and the words that make it what it is.
RUNS: dict[str, tuple[Sequence[Any], list[str]]] = {
    "pairs": (PAIRS, []),
    "another policy as its reference": (PAIRS, ["reference.path=other"]),
    "a reference that is synced": (PAIRS, ["reference=synced", "reference.sync_every=1"]),
    "a reference that averages": (PAIRS, ["reference=ema", "reference.update_every=1"]),
    "no reference": (PAIRS, ["loss=simpo", "reference=none"]),
    "chats with columns of their own": (ASKED, ["data.chat=true", "data.columns={prompt: question}"]),
    "single completions and a loss with a state": (SINGLE, ["loss=bco"]),
    "averages of gaps": (PAIRS, ["loss=alpha_dpo"]),
    "rankings": (RANKED, ["loss=plackett_luce"]),
    "the best of its evaluations": (PAIRS, ["trainer.policy=best", "trainer.best_metric=kl", "reference=synced"]),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with artifacts and a finished run, `other`."""
    folder, handler = tmp_path_factory.mktemp("made"), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        patch.setattr(sys, "argv", sys.argv)
        train(PAIRS, "optimizer.lr=0.05").rename("other")
    signal.signal(signal.SIGTERM, handler)
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "argv", sys.argv)
    yield
    signal.signal(signal.SIGTERM, handler)


def write(name: str, rows: Sequence[Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(*words: str) -> Path:
    assert run_command(words) == 0
    return runs_of(Path.cwd())[-1]


def train(rows: Sequence[Any], *words: str) -> Path:
    write("train.jsonl", rows[:16])
    write("held_out.jsonl", rows[16:])
    return run("data=pairs", "data.path=train.jsonl", "data.eval_path=held_out.jsonl", *SMALL, *words)


def scoring(path: Path, name: str = "held_out.jsonl") -> list[str]:
    return ["runner=evaluate", "model=checkpoint", f"model.path={path}", f"runner.pairs={name}"]


def summary(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return found


@pytest.mark.parametrize("name", RUNS)
def test_its_own_held_out_rows_give_its_own_numbers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows, words = RUNS[name]
    path = train(rows, *words)
    then = {key.removeprefix("eval/"): value for key, value in summary(path).items() if key.startswith("eval/")}
    capsys.readouterr()
    now = summary(run(*scoring(path)))
    assert f"{now['loss']:.4f} \N{PLUS-MINUS SIGN} {now['loss_se']:.4f}" in capsys.readouterr().out
    assert now["num_pairs"] == 8
    shared = then.keys() & now.keys()
    assert shared >= {"loss", "rewards/chosen", "logps/chosen"}
    # Float32, scored in other layouts: sums of some 100 nats.
    assert {key: now[key] for key in shared} == pytest.approx({key: then[key] for key in shared}, rel=1e-3, abs=2e-3)
    if name == "pairs":
        assert abs(then["rewards/margins"]) > 0.05, "or a wrong reference would not show"


def test_what_the_loss_cannot_take_or_what_is_gone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write("single.jsonl", SINGLE)
    path = train(PAIRS, "reference=synced", "reference.sync_every=1")
    before = len(runs_of(Path.cwd()))
    assert run_command(scoring(path, "single.jsonl")) == 2
    assert "loss=kto" in capsys.readouterr().err
    shutil.rmtree(path / "checkpoints" / "step-00000004")
    assert run_command(scoring(path)) == 2
    assert "reference=synced was left in the checkpoint of the policy's step" in capsys.readouterr().err
    facts = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**facts, "made_from": {**facts["made_from"], "base": "0" * 16}}))
    assert run_command(scoring(path)) == 2
    assert "began from another base policy" in capsys.readouterr().err
    assert len(runs_of(Path.cwd())) == before
