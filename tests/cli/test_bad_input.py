"""Whatever a user gives that is wrong: exit status 2, one line that names it and a way out, and no run left behind.

The runs are real, on artifacts that are there already; see test_command_line for mistakes that need no run to be found.
"""

from __future__ import annotations

import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import ENVIRONMENT, LAB, SMALL_RUN

from dpo_lab.artifacts.directory import MANIFEST, write_directory
from dpo_lab.check.__main__ import main as check
from dpo_lab.cli.main import run_command
from dpo_lab.compare.__main__ import main as compare

Prepare = Callable[[Path], object]

TINY = [
    *("+experiment=quickstart", "data.num_sentences=60", "model.dim=8", "model.depth=1", "model.heads=1", *SMALL_RUN),
    *("candidates.num_prompts=32", "candidates.samples_per_prompt=2", "evaluation.best_of=[2]"),
]
SAMPLE = ["runner=sample", "model=checkpoint", "model.path=done"]
EVALUATE = ["runner=evaluate", "model=checkpoint", "model.path=done"]
GIVEN = ["data=pairs", "data.path=x.jsonl", "model.dim=8", "model.depth=1", "model.heads=1", "base.trainer.max_steps=1"]
PAIR = '{"prompt": "a b", "chosen": " c", "rejected": " d"}\n'
PICKLE = b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x17open('unpickled', 'w')\x85R."


@dataclass
class Wrong:
    """What is prepared in the directory `done` is in, the words, and what the answer must hold."""

    words: list[str]
    parts: tuple[str, ...]
    prepare: list[Prepare] = field(default_factory=list)
    main: Callable[[list[str]], int] = run_command


def text(name: str, content: str | bytes) -> Prepare:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def changed(name: str, old: str, new: str) -> Prepare:
    def write(folder: Path) -> None:
        before = (folder / name).read_text()
        assert old in before
        (folder / name).write_text(before.replace(old, new, 1))

    return write


def cut(name: str) -> Prepare:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9])


def flipped(name: str) -> Prepare:
    def write(folder: Path) -> None:
        whole = bytearray((folder / name).read_bytes())
        whole[len(whole) // 2] ^= 1
        (folder / name).write_bytes(whole)

    return write


def without(name: str) -> Prepare:
    return lambda folder: (folder / name).unlink()


def sealed(folder: Path) -> None:
    """The policy's manifest made to fit what its files hold: somebody meant it."""
    policy = folder / "done" / "policy"
    held = {p.name: p.read_bytes() for p in policy.iterdir() if p.name != MANIFEST}
    write_directory(policy, lambda directory: [(directory / name).write_bytes(whole) for name, whole in held.items()])


def link_out(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "runs").mkdir()
    (folder / "runs" / "link").symlink_to(folder / "elsewhere")


def policy(*parts: str, words: list[str] = SAMPLE, **edits: Prepare | list[Prepare]) -> Wrong:
    """A policy that cannot be used."""
    prepare = edits["prepare"]
    return Wrong(words, ("model.path", "name another run", *parts), prepare if isinstance(prepare, list) else [prepare])


def their_config(*parts: str, prepare: Prepare) -> Wrong:
    """A finished run whose config.yaml cannot be used."""
    return Wrong(EVALUATE, ("done/config.yaml", *parts), [prepare])


def data(content: str | bytes, *parts: str, words: tuple[str, ...] = ()) -> Wrong:
    return Wrong([*GIVEN, *words], parts, [text("x.jsonl", content)])


def setting(word: str, *parts: str) -> Wrong:
    return Wrong([*TINY, word], parts)


def comparing(words: str, *parts: str, prepare: Prepare | None = None) -> Wrong:
    return Wrong(words.split(), parts, [prepare] if prepare else [], main=compare)


def checking(words: str, *parts: str, prepare: Prepare | None = None) -> Wrong:
    return Wrong(words.split(), parts, [prepare] if prepare else [], main=check)


WEIGHTS, ARCHITECTURE, TOKENIZER = (f"done/policy/{name}" for name in ("model.safetensors", "config.yaml", "tokenizer.json"))
MANY = "".join(PAIR.replace("a b", f"p{i}") for i in range(40))
UNPAIRED = "".join(f'{{"prompt": "p{i}", "completion": " c{i}", "label": {str(i % 2 == 0).lower()}}}\n' for i in range(40))

WRONG = {
    # Policies.
    "a flipped bit": policy("model.safetensors", prepare=flipped(WEIGHTS)),
    "truncated weights": policy("model.safetensors", prepare=cut(WEIGHTS)),
    "no weights": policy("model.safetensors", prepare=without(WEIGHTS)),
    "no manifest": policy("manifest.json", prepare=without(f"done/policy/{MANIFEST}")),
    "a manifest that is none": policy("manifest.json", prepare=text(f"done/policy/{MANIFEST}", "{")),
    "an altered tokenizer": policy("tokenizer.json", prepare=cut(TOKENIZER)),
    "an altered architecture": policy("config.yaml", prepare=changed(ARCHITECTURE, "dim: 8", "dim: 16")),
    "a directory of nothing": policy("manifest.json", words=[*SAMPLE[:2], "model.path=e"], prepare=text("e/x", "")),
    "weights that are a pickle": policy("safetensors", prepare=[text(WEIGHTS, PICKLE), sealed]),
    "weights of another size": policy("not the weights", prepare=[changed(ARCHITECTURE, "dim: 8", "dim: 16"), sealed]),
    "an unknown architecture": policy("'transformer'", prepare=[changed(ARCHITECTURE, "transformer", "transformr"), sealed]),
    "an unknown setting": policy("model.dimm", prepare=[changed(ARCHITECTURE, "dim", "dimm"), sealed]),
    "a word for a number": policy("model.dim", prepare=[changed(ARCHITECTURE, "dim: 8", "dim: x"), sealed]),
    "a number out of range": policy("model.dim", prepare=[changed(ARCHITECTURE, "dim: 8", "dim: -1"), sealed]),
    "an architecture that is a list": policy("no settings", prepare=[text(ARCHITECTURE, "- 1"), sealed]),
    "an empty architecture": policy("model.name", prepare=[text(ARCHITECTURE, ""), sealed]),
    "an architecture that is no YAML": policy("YAML", prepare=[text(ARCHITECTURE, "a: ["), sealed]),
    "no architecture": policy("config.yaml", prepare=[without(ARCHITECTURE), sealed]),
    "a tokenizer that is none": policy("tokenizer", prepare=[text(TOKENIZER, "{"), sealed]),
    "a damaged policy to train from": policy(
        "model.safetensors", words=["+experiment=quickstart", *SAMPLE[1:]], prepare=flipped(WEIGHTS)
    ),
    "a file for a policy": Wrong([*SAMPLE[:2], "model.path=f"], ("model.path", "directory f"), [text("f", "")]),
    # Finished runs.
    "a run without its configuration": Wrong(
        EVALUATE, ("model.path", "config.yaml"), [without("done/config.yaml")]
    ),
    "a policy that is no run": Wrong(EVALUATE, ("model.path", "run.json"), [without("done/run.json")]),
    "a run's unknown loss": their_config("'dpo'", prepare=changed("done/config.yaml", "name: dpo", "name: dpoo")),
    "a run's unknown setting": their_config("sede", prepare=changed("done/config.yaml", "seed: 0", "sede: 0")),
    "a run's wrong type": their_config("seed", prepare=changed("done/config.yaml", "seed: 0", "seed: x")),
    "a run's value out of range": their_config("beta", prepare=changed("done/config.yaml", "beta: 1.0", "beta: -1.0")),
    "a run's broken YAML": their_config("YAML", prepare=text("done/config.yaml", "a: [")),
    "a run's list": their_config("no settings", prepare=text("done/config.yaml", "- 1")),
    "a run's empty file": their_config("runner.name", prepare=text("done/config.yaml", "")),
    "a run's bytes": their_config("YAML", prepare=text("done/config.yaml", b"\xff\xfe\x00")),
    # What a runner is asked for.
    "more tokens than fit": Wrong([*SAMPLE, "runner.max_tokens=99"], ("99", "runner.max_tokens", "context of 32")),
    "no sample": Wrong([*SAMPLE, "runner.num_samples=0"], ("runner.num_samples", "at least 1")),
    "no temperature": Wrong([*SAMPLE, "runner.temperature=nan"], ("runner.temperature", ">= 0")),
    "one prompt to judge by": Wrong([*EVALUATE, "runner.num_prompts=1"], ("runner.num_prompts", "at least 2")),
    # Devices and numbers.
    "a device of no tensors": setting("compute.device=meta", "compute.device", "cpu"),
    "a device nobody has": setting("compute.device=xla", "compute.device", "cpu"),
    "a second CPU": setting("compute.device=cpu:1", "compute.device", "cpu"),
    "a GPU too many": setting("compute.device=cuda:99", "compute.device=cuda:99", "compute.device=auto"),
    "a seed of 80 bits": setting("seed=999999999999999999999999", "seed", "63 bits"),
    "a seed of 80 bits elsewhere": setting("base.seed=999999999999999999999999", "seed", "63 bits"),
    "no number": setting("data.sharpness=nan", "data.sharpness", "finite"),
    "a reward that is no number": setting("reward.values={a: nan}", "reward.values", "finite"),
    "texts of no tokens": setting("base.max_tokens=0", "base.max_tokens", "at least 1"),
    "a share of two": setting("base.whole_at_end=2", "base.whole_at_end", "[0, 1]"),
    "fewer than none": setting("evaluation.num_shown=-1", "evaluation.num_shown", ">= 0"),
    "a batch of more prompts than are sampled": setting("trainer.batch_size=100000", "trainer.batch_size", "only 32"),
    "more prompts than there are": setting("candidates.num_prompts=999", "candidates.num_prompts", "only 47"),
    "completions beyond the context": setting("candidates.max_tokens=64", "max_tokens", "model.context"),
    "a context of two": setting("model.context=2", "model.context"),
    "a metric nobody measures": setting("trainer.best_metric=wins", "trainer.best_metric", "win_rate"),
    "a base policy that diverges": setting("base.optimizer.lr=1e30", "base.optimizer.lr", "lower"),
    # Places.
    "a file where runs belong": Wrong([*TINY, "runs=f"], ("runs", "directory f"), [text("f", "")]),
    "runs below a file": Wrong([*TINY, "runs=f/x"], ("runs", "directory f/x"), [text("f", "")]),
    "a file where artifacts belong": Wrong([*TINY, "store=f"], ("store", "directory f"), [text("f", "")]),
    "a file where the name's runs belong": Wrong([*TINY, "name=f"], ("name", "runs/f"), [text("runs/f", "")]),
    "a name that links out": Wrong([*TINY, "name=link"], ("name", "below runs"), [link_out]),
    "a name below a link out": Wrong([*TINY, "name=link/x"], ("name", "below runs"), [link_out]),
    "a name of 300 letters": setting(f"name={'x' * 300}", "name", "relative path"),
    # How jobs are run says not what is run.
    "another working directory": setting("hydra.run.dir=/proc/x", "hydra.run.dir", "runs=DIRECTORY"),
    "a working directory for each job": setting("hydra.job.chdir=true", "hydra.job.chdir", "runs=DIRECTORY"),
    "a launcher of one's own": setting("hydra.launcher._target_=os.system", "hydra.launcher._target_", "hydra/launcher=local"),
    "a callback": setting("+hydra.callbacks.x._target_=os.system", "hydra.callbacks", "register"),
    # Data.
    "no row": data("", "x.jsonl"),
    "a row that is no JSON": data("{\n", "x.jsonl:1", "JSON"),
    "a row without its fields": data('{"prompt": "a"}\n', "x.jsonl:1", "chosen"),
    "a row of bytes": data(b"\xff\xfe\n", "x.jsonl:1", "UTF-8"),
    "too few rows": data(PAIR, "x.jsonl", "eval_share"),
    "a batch of more pairs than there are": data(MANY, "trainer.batch_size", "only 35 pairs", words=("trainer.batch_size=65",)),
    "a batch of more texts than there are": data(
        MANY, "base.trainer.batch_size", "only 35 texts", words=("trainer.batch_size=35", "base.trainer.batch_size=65")
    ),
    "a directory for a file": Wrong(GIVEN, ("data.path", "x.jsonl"), [text("x.jsonl/f", "")]),
    "single completions for pairs": data(UNPAIRED, "loss=dpo", words=("trainer.max_steps=1",)),
    "pairs without scores": data(MANY, "loss=rebel", "scores", words=("loss=rebel",)),
    # Comparisons.
    "nothing to compare": comparing("", "runs", "--help"),
    "no such run": comparing("nowhere", "nowhere", "run directories"),
    "no such option": comparing("done --foo", "--foo", "--help"),
    "no such metric": comparing("done --metric lk", "--metric", "'kl'"),
    "a metric like no other": comparing("done --metric xxxxxx", "--metric", "Known: "),
    "no such setting": comparing("done --by loss.bta", "--by", "'loss.beta'"),
    "a setting like no other": comparing("done --by xxxxxx", "--by", "Known: "),
    "no such KL": comparing("done --at-kl -1", "--at-kl", ">= 0"),
    "a KL in words": comparing("done --at-kl x", "--at-kl", "--help"),
    "no such baseline": comparing("done --baseline 7", "--baseline", "all runs"),
    "two outputs in one": comparing("done --csv - --json -", "csv and json", "file"),
    "a page that is a directory": comparing("done --html .", "--html", "give a file"),
    "a table below a file": comparing("done --csv f/x", "f", prepare=text("f", "")),
    "figures in a file": comparing("done --figures f", "f", prepare=text("f", "")),
    "a study's folder without a place": comparing("done --save s", "s/README.md", "results", prepare=text("s/README.md", "")),
    "a broken summary": comparing("done", "done", "run directories", prepare=text("done/summary.json", "{")),
    "a run that is a list": comparing("done", "done/run.json", "object", prepare=text("done/run.json", "[1]")),
    "a broken metric log": comparing("done", "done/metrics.jsonl:1", prepare=text("done/metrics.jsonl", "x\n{}\n")),
    # Checks of losses.
    "no setting": checking("loss", "'loss'", "key=value"),
    "a setting that is none": checking("los=dpo", "los", "'loss'"),
    "a loss that is none": checking("loss=dop", "loss 'dop'", "'dpop'"),
    "no examples": checking("examples=0", "examples", "> 0"),
    "a module that is none": checking("user_modules=[no.such]", "user_modules", "no.such"),
    "a picture below a file": checking("plot=true loss=sft figure=f/x.png", "figure=f/x.png", "path", prepare=text("f", "")),
}  # fmt: skip


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with artifacts, and a finished run in `done`."""
    folder = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", sys.argv)
        handler = signal.getsignal(signal.SIGTERM)
        assert run_command([*TINY, "name=done"]) == 0
        signal.signal(signal.SIGTERM, handler)
    (run,) = (folder / "runs" / "done").iterdir()
    run.rename(folder / "done")
    shutil.rmtree(folder / "runs")
    return folder


@pytest.fixture
def here(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it to spoil, as the working directory."""
    shutil.copytree(ready, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", sys.argv)
    handler, logs = signal.getsignal(signal.SIGTERM), list(logging.root.handlers)
    yield tmp_path / "here"
    signal.signal(signal.SIGTERM, handler)
    logging.root.handlers[:] = logs


def left(folder: Path) -> list[Path]:
    """What lies below runs/, but for locks and for what was put there before."""
    return [path for path in folder.glob("runs/*") if path.name not in (".sweeps", "link", "f")]


def assert_answers(error: str, parts: tuple[str, ...]) -> None:
    assert re.fullmatch(r"error: .*\n", error), error
    assert len(error) < 400
    for part in parts:
        assert part in error


@pytest.mark.parametrize("name", WRONG)
def test_it_is_refused_in_one_line(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = WRONG[name]
    for prepare in wrong.prepare:
        prepare(here)
    before = {p.name for p in here.iterdir()}
    assert wrong.main(list(wrong.words)) == 2
    assert_answers(capsys.readouterr().err, wrong.parts)
    assert left(here) == []
    assert {p.name for p in here.iterdir()} <= before | {"runs"}
    assert (here / "elsewhere").exists() <= (not list(here.glob("elsewhere/*")))


def test_there_are_many_of_them() -> None:
    assert len(WRONG) >= 60


@pytest.mark.parametrize("name", ["weights that are a pickle", "no such metric"])
def test_a_process_says_the_same(name: str, here: Path) -> None:
    wrong = WRONG[name]
    for prepare in wrong.prepare:
        prepare(here)
    program = LAB if wrong.main is run_command else [sys.executable, "-m", "dpo_lab.compare"]
    done = subprocess.run([*program, *wrong.words], cwd=here, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert_answers(done.stderr, wrong.parts)
    assert left(here) == []
    assert not (here / "unpickled").exists()
