"""Whole runs, as small as they can be: what they leave, what they reuse, and how they end when they end badly."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures_imdb import write_reviews
from processes import ENVIRONMENT, LAB, QUICKSTART, SMALL_MODEL, SMALL_RUN, SMALL_SAMPLES, run, runs_of
from safetensors.torch import load_file
from torch import nn

from dpo_lab.artifacts.digests import file_digest
from dpo_lab.artifacts.directory import verify_directory
from dpo_lab.cli import CONF
from dpo_lab.cli.main import run_command
from dpo_lab.cli.validation import validate
from dpo_lab.evaluation.evaluator import Evaluator
from dpo_lab.evaluation.ideal import frontier_of
from dpo_lab.models import layer_wrappers
from dpo_lab.models.layer_wrappers import compile_layers
from dpo_lab.pipeline.runners import preference
from dpo_lab.pipeline.study_config import study_from_file
from dpo_lab.pipeline.upfront_checks import metric_names, row_kind
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import Layout
from dpo_lab.training.objective import Objective

pytestmark = pytest.mark.slow

STAGES = ("tokenizer", "base", "candidates", "reference samples", "reference")
SPEEDS = {"pairs_per_s", "tokens_per_s"}
IMDB = sorted(file.stem for file in (CONF / "experiment").glob("imdb*.yaml"))


@dataclass
class Finished:
    """A run that has ended, and the directory its command was given in."""

    folder: Path
    path: Path
    out: str


def strict(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def lines(file: Path) -> list[dict[str, Any]]:
    return [strict(line) for line in file.read_text().splitlines()]


def numbers(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the speeds, which no two runs share."""
    return [{key: value for key, value in row.items() if key not in SPEEDS} for row in lines(path / "metrics.jsonl")]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def stamps(folder: Path) -> dict[str, int]:
    """When each file of the artifacts was written; locks, and dates of their use, aside."""
    return {name: (folder / name).stat().st_mtime_ns for name in files(folder) if not name.endswith((".lock", ".used"))}


def outcomes(out: str, stage: str) -> set[str]:
    """What the console said of a stage: built, reused."""
    return set(re.findall(rf"^{stage} +(built|reused|failed)\b", out, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("quickstart")
    done = run(folder, QUICKSTART)
    assert done.stderr == ""
    (path,) = runs_of(folder)
    return Finished(folder, path, done.stdout)


@pytest.fixture
def copy(quickstart: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The quickstart's directory, copied: the working directory of commands given to `here`."""
    shutil.copytree(quickstart.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(sys, "argv", sys.argv)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "copy"
    signal.signal(signal.SIGTERM, handler)


def here(words: Sequence[str], status: int = 0) -> Path:
    """The newest run directory after the command, which runs in this process: that saves the import of torch."""
    assert run_command(words) == status
    return runs_of(Path.cwd())[-1]


def test_a_run_leaves_the_files_of_the_contract_and_no_others(quickstart: Finished) -> None:
    found = files(quickstart.path)
    (events,) = (name for name in found if name.startswith("events.out.tfevents."))
    policy = {"model.safetensors", "config.yaml", "tokenizer.json", "tokenizer_config.json", "manifest.json"}
    state = {"optimizer.safetensors", "state.json", "state.safetensors"}
    steps = {Path(name).parts[1] for name in found if name.startswith("checkpoints/step-")}
    expected = {"config.yaml", "run.json", "metrics.jsonl", "summary.json", "samples.jsonl", "figure.png", "figure.svg", events}
    expected |= {"checkpoints/index.json", *(f"policy/{name}" for name in policy)}
    expected |= {f"checkpoints/{step}/{name}" for step in steps for name in {*policy, *state}}
    expected -= {"checkpoints/step-00000000/optimizer.safetensors"}  # before the first step it has no state
    assert found == expected
    assert "step-00000004" in steps
    assert quickstart.path.parent == quickstart.folder / "runs" / "quickstart"
    assert {entry.name for entry in quickstart.folder.iterdir()} == {"runs", "artifacts"}


def test_run_json_says_how_the_run_came_about(quickstart: Finished) -> None:
    facts = strict((quickstart.path / "run.json").read_text())
    assert facts["status"] == "done"
    assert facts["command"] == " ".join(["python -m dpo_lab", *QUICKSTART])
    assert facts["overrides"] == QUICKSTART
    assert (facts["seed"], facts["threads"], facts["world_size"]) == (0, 1, 1)
    assert facts["wall_s"] > 0
    assert facts["started"]
    assert set(facts["versions"]) >= {"python", "torch", "dpo_lab"}
    assert set(facts["hardware"]) >= {"cpu", "cores", "memory_gib"}
    assert set(facts["layouts"]) <= {"rows", "branches", "packed"}
    assert sum(facts["layouts"].values()) >= 8, "every step scores a batch"
    assert facts["git"] is None or set(facts["git"]) == {"sha", "dirty"}
    for kind, keys in facts["artifacts"].items():
        for key in keys:
            verify_directory(quickstart.folder / "artifacts" / kind / key)
    assert len(facts["artifacts"]["reference_scores"]) == 2, "of the training pairs, and of those held out"
    assert set(facts["artifacts"]) == {"tokenizer", "base", "candidates", "reference_samples", "reference_scores"}


def test_metrics_are_logged_at_their_intervals(quickstart: Finished) -> None:
    rows = lines(quickstart.path / "metrics.jsonl")
    assert [(row["step"], row["split"]) for row in rows] == [
        *((0, "eval"), (2, "train"), (2, "eval")),
        *((4, "train"), (4, "eval")),
    ]
    shared = {"loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"}
    shared |= {"logps/rejected", "ref_logps/chosen", "length/chosen", "length/rejected"}
    for row in rows:
        assert row["pairs"] == 16 * row["step"]
        own = (
            {"grad_norm", "lr"} | SPEEDS if row["split"] == "train" else {"kl", "kl_se", "reward/policy", "win_rate", "entropy"}
        )
        if row["split"] == "eval":
            own |= {f"{name}_se" for name in (shared | own | {"displacement/chosen"}) - {"kl_se"}}
        assert set(row) >= shared | own | ({"displacement/chosen"} if row["split"] == "eval" else set())
        assert all(isinstance(value, int | float) for key, value in row.items() if key != "split")


def test_an_evaluation_measures_what_was_foreseen_and_nothing_else(quickstart: Finished) -> None:
    """trainer.best_metric is checked by these names before any work."""
    study = study_from_file(quickstart.path / "config.yaml")
    for row in lines(quickstart.path / "metrics.jsonl"):
        if row["split"] == "eval":
            measured = {name.removesuffix("_se") for name in row} - {"step", "split", "pairs"}
            assert measured | {"distinct_2"} == metric_names(study, row_kind(study)), "it needs more tokens"


def test_training_starts_at_the_constant_of_its_loss(quickstart: Finished) -> None:
    first = lines(quickstart.path / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)  # float32
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert first["kl"] == pytest.approx(0, abs=1e-5)


def test_the_summary_holds_the_final_numbers(quickstart: Finished) -> None:
    summary = strict((quickstart.path / "summary.json").read_text())
    assert summary["step"] == 4
    assert set(summary) >= {"kl", "win_rate", "entropy", "eval/loss", "best_of_n", "ideal_frontier", "ideal_share"}
    assert set(summary) >= {f"{kind}/{who}" for kind in ("reward", "positive", "proxy") for who in ("policy", "reference")}
    assert "distinct_2" not in summary, "16 completions have fewer than 1,000 pairs of tokens"
    others = {"step", "wall_s", "num_prompts", "best_of_n"} | {
        name for name in summary if name.startswith("ideal_") or name.endswith("_se")
    }
    assert {f"{name}_se" for name in summary if name not in others} <= set(summary)
    assert all({"kl_bound", "proxy_se", "reward_se", "positive_se"} <= row.keys() for row in summary["best_of_n"])
    assert [row["n"] for row in summary["best_of_n"]] == [2, 4, 8]
    assert set(summary["wall_s"]) == {*STAGES, "training", "evaluation"}
    last = lines(quickstart.path / "metrics.jsonl")[-1]
    assert summary["eval/loss"] == last["loss"]


def test_samples_hold_both_sides_of_every_prompt(quickstart: Finished) -> None:
    rows = lines(quickstart.path / "samples.jsonl")
    assert len(rows) == 16
    for row in rows:
        numbers = {"reward/policy", "reward/reference", "proxy/policy", "proxy/reference", "kl", "win_rate"}
        assert set(row) == {"prompt", "policy", "reference"} | numbers
        assert row["policy"].startswith(row["prompt"])


def test_output_that_goes_to_no_terminal_has_no_escape_codes(quickstart: Finished) -> None:
    assert "\x1b" not in quickstart.out
    assert "\r" not in quickstart.out
    for stage in STAGES:
        assert outcomes(quickstart.out, stage) == {"built"}
    assert str(quickstart.path.relative_to(quickstart.folder)) in quickstart.out


@pytest.fixture(scope="module")
def sweep(quickstart: Finished) -> tuple[Finished, dict[str, int], dict[str, int]]:
    """Two betas by two seeds beside the quickstart; and the artifacts' time stamps before and after."""
    store = quickstart.folder / "artifacts"
    before = stamps(store)
    done = run(quickstart.folder, ["-m", *QUICKSTART, "loss.beta=1,2", "seed=0,1"])
    return Finished(quickstart.folder, runs_of(quickstart.folder)[-1], done.stdout + done.stderr), before, stamps(store)


def test_a_sweep_leaves_a_finished_run_for_every_job(sweep: Any, quickstart: Finished) -> None:
    values = []
    for path in runs_of(quickstart.folder):
        assert strict((path / "run.json").read_text())["status"] == "done"
        config = (path / "config.yaml").read_text()
        values.append((float(re.search(r"beta: (.*)", config)[1]), int(re.search(r"^seed: (.*)", config, re.MULTILINE)[1])))  # type: ignore[index]
    assert sorted(values) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert "sweep: 3 done, 1 finished before" in sweep[0].out
    assert {entry.name for entry in (quickstart.folder / "runs").iterdir()} <= {"quickstart", ".sweeps"}


def test_another_beta_and_another_seed_build_nothing_again(sweep: Any) -> None:
    finished, before, after = sweep
    assert after == before
    for stage in ("tokenizer", "base", "candidates", "reference samples"):
        assert outcomes(finished.out, stage) == {"reused"}


def test_the_console_says_that_reference_scores_are_reused(sweep: Any) -> None:
    assert outcomes(sweep[0].out, "reference") == {"reused"}


def test_the_same_command_gives_the_same_numbers(quickstart: Finished, copy: Path) -> None:
    """Bit for bit: same machine, same number of threads."""
    again = here(QUICKSTART)
    assert again.name != quickstart.path.name
    assert numbers(again) == numbers(quickstart.path)
    assert file_digest(again / "policy" / "model.safetensors") == file_digest(quickstart.path / "policy" / "model.safetensors")


def test_the_preflight_tries_evaluations_and_changes_no_number(
    quickstart: Finished, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed = list[str]()
    for of in (Objective, Evaluator):

        def rehearse(self: Any, given: Any, original: Any = of.rehearse, name: str = of.__name__) -> None:
            rehearsed.append(name)
            original(self, given)

        monkeypatch.setattr(of, "rehearse", rehearse)
    assert numbers(here([*QUICKSTART, "trainer.preflight=true"])) == numbers(quickstart.path)
    assert rehearsed == ["Objective", "Evaluator"]


def test_the_seed_changes_the_numbers(sweep: Any, quickstart: Finished) -> None:
    losses = {tuple(row["loss"] for row in numbers(path) if row["split"] == "train") for path in runs_of(quickstart.folder)}
    assert len(losses) == 4


@pytest.mark.parametrize(
    ("kind", "stage", "untouched"), [("base", "base", "candidates"), ("reference_scores", "reference", "reference samples")]
)
def test_a_damaged_artifact_is_built_again_and_said_to_be(
    kind: str, stage: str, untouched: str, copy: Path, quickstart: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = next(copy.glob(f"artifacts/{kind}/*/*.safetensors"))
    right = file_digest(damaged)
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    path = here(QUICKSTART)
    out = capsys.readouterr().out
    assert re.search(rf"^warning: artifact {kind}/{damaged.parent.name} is .*damaged", out, flags=re.MULTILINE)
    assert outcomes(out, stage) == {"built"}
    assert outcomes(out, untouched) == {"reused"}
    assert file_digest(damaged) == right
    assert numbers(path) == numbers(quickstart.path)


def test_a_run_continues_from_another_as_its_own_reference(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = runs_of(copy)[0]
    trained = [word for word in QUICKSTART if not word.startswith("model.")]
    # The quickstart sets fields of its transformer: a checkpoint has none of them.
    words = [word for word in trained if word != "+experiment=quickstart"]
    words += ["model=checkpoint", f"model.path='{first}'", "reward=lexicon", "++reward.values={a: 1}", "candidates=sampled"]
    path = here([*words, "candidates.max_tokens=9"])
    assert outcomes(capsys.readouterr().out, "base") == {"reused"}
    rows = lines(path / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # float32
    assert file_digest(path / "policy/tokenizer.json") == file_digest(first / "policy/tokenizer.json")


def test_a_compiled_policy_takes_the_same_steps(copy: Path, quickstart: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = list[nn.Module]()

    def compile_quickly(model: nn.Module) -> None:
        compile_layers(model, backend="eager")  # the code generator takes long on a CPU
        compiled.append(model)

    monkeypatch.setattr(layer_wrappers, "compile_layers", compile_quickly)
    monkeypatch.setattr(preference, "exact_layouts", lambda *given: (Layout.packed,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        path = here([*QUICKSTART, "compute.compile=true"])
    assert len(compiled) == 1
    assert strict((path / "run.json").read_text())["layouts"].keys() == {"packed"}
    ours, theirs = ([row["loss"] for row in numbers(of) if row["split"] == "train"] for of in (path, quickstart.path))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_an_experiment_can_continue_from_a_run(copy: Path) -> None:
    """The experiment's own model fields do not stand in the way of model=checkpoint."""
    words = [word for word in QUICKSTART if not word.startswith("model.")]
    path = here([*words, "model=checkpoint", f"model.path='{runs_of(copy)[0]}'"])
    assert lines(path / "metrics.jsonl")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # float32


def test_the_path_that_a_run_prints_can_be_given_as_it_is(quickstart: Finished) -> None:
    """Run directories are named after their overrides; = and , mean something to Hydra."""
    validate(["runner=sample", "model=checkpoint", f"model.path={quickstart.path}"])


@pytest.mark.parametrize(("metric", "loss"), [("kl", "dpo"), ("win_rate", "alpha_dpo"), ("loss", "dpo")])
def test_the_policy_of_the_best_evaluation_is_kept_and_judged(
    metric: str, loss: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its loss is what it was then, to the bit: the reference and the loss's averages have gone back with it."""
    words = [*QUICKSTART, f"loss={loss}", "reference=synced", "reference.sync_every=1", "optimizer.lr=0.03"]
    words += ["trainer.eval_every=1", f"trainer.best_metric={metric}"]
    path = here([*words, "trainer.policy=best"])
    shown = capsys.readouterr().out
    rows = {row["step"]: row for row in lines(path / "metrics.jsonl") if row["split"] == "eval"}
    best = min(rows, key=lambda step: rows[step][metric] * (1 if metric in ("kl", "loss") else -1))
    summary, facts = (strict((path / f"{name}.json").read_text()) for name in ("summary", "run"))
    assert (summary["step"], facts["policy_step"], facts["steps"]) == (best, best, 4)
    assert summary["eval/loss"] == rows[best]["loss"]
    kept = load_file(path / "policy" / "model.safetensors")
    then = load_file(path / "checkpoints" / f"step-{best:08}" / "model.safetensors")
    assert all(torch.equal(kept[name], then[name]) for name in then)
    assert f"policy/ holds step {best} of 4, the best by {metric}" in shown
    if metric == "kl":
        assert best < 4, "the policy has left its reference since"
        last = here(words)
        assert strict((last / "summary.json").read_text())["eval/loss"] == rows[4]["loss"] != rows[best]["loss"]
        told = capsys.readouterr().out
        assert f"policy/ holds the last step, 4; the best by kl was step {best} (trainer.policy=best keeps that)" in told


@pytest.mark.parametrize(
    ("words", "reason", "bound"),
    [
        (["trainer.max_minutes=1e-9"], "trainer.max_minutes=1e-09 are over", "trainer.max_minutes"),
        (
            ["trainer.eval_every=1", "trainer.patience=1", "trainer.best_metric=kl", "optimizer.lr=0"],
            "trainer.patience: 1 evaluations without a better kl",
            None,
        ),
    ],
)
def test_an_early_end_says_why(
    words: list[str], reason: str, bound: str | None, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here([*QUICKSTART, *words])
    facts, summary = (strict((path / f"{name}.json").read_text()) for name in ("run", "summary"))
    assert (facts["status"], facts["reason"], facts["steps"], facts.get("bounded_by")) == ("done", reason, 1, bound)
    assert (summary["ended"], summary["step"]) == (reason, 1)
    assert f"training ended at step 1 of 4: {reason}" in " ".join(capsys.readouterr().out.split())


def test_a_finished_run_is_judged_again(copy: Path) -> None:
    first = runs_of(copy)[0]
    path = here(["runner=evaluate", "model=checkpoint", f"model.path='{first}'"])
    again, then = (strict((run / "summary.json").read_text()) for run in (path, first))
    for name in ("kl", "kl_se", "reward/policy", "reward/reference", "win_rate", "best_of_n"):
        assert again[name] == then[name]
    assert lines(path / "samples.jsonl") == lines(first / "samples.jsonl")
    facts = [strict((run / "run.json").read_text()) for run in (path, first)]
    assert [(of["status"], of["runner"]) for of in facts] == [("done", "evaluate"), ("done", "preference")]
    assert files(path) == {"config.yaml", "run.json", "summary.json", "samples.jsonl"}, "nothing that TensorBoard reads"


def test_the_frontier_is_that_of_the_reference_at_temperature_1(copy: Path) -> None:
    """KL is against the untempered reference: from samples of candidates.temperature the ideal share would be of another."""
    settings = ["candidates.temperature=0.3", "evaluation.num_prompts=64"]
    path = here([*QUICKSTART, *settings, "data.num_sentences=400"])
    summary = strict((path / "summary.json").read_text())
    (key,) = strict((path / "run.json").read_text())["artifacts"]["reference_samples"]
    samples = CandidateBatch.from_tensors(load_file(copy / "artifacts" / "reference_samples" / key / "batch.safetensors"))
    frontier, _ = frontier_of(samples)
    assert samples.scores is not None
    assert summary["proxy/reference"] == pytest.approx(float(samples.scores.double().mean()))
    assert len(summary["ideal_frontier"]) > 3
    for point, row in zip(frontier.points, summary["ideal_frontier"], strict=True):
        assert (row["kl"], row["proxy"] - summary["proxy/reference"]) == pytest.approx((point.kl, point.reward), abs=1e-9)


def test_a_finished_policy_speaks(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = runs_of(copy)[0]
    words = ["runner=sample", "model=checkpoint", f"model.path='{first}/policy'", "runner.prompt='a b'"]
    path = here([*words, "runner.num_samples=3", "runner.max_tokens=5"])
    rows = lines(path / "samples.jsonl")
    assert files(path) == {"config.yaml", "run.json", "summary.json", "samples.jsonl"}, "nothing that TensorBoard reads"
    assert [row["prompt"] for row in rows] == ["a b"] * 3
    assert all(row["policy"].startswith("a b") and row["policy"] in capsys.readouterr().out for row in rows[:1])


def test_a_damaged_policy_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = runs_of(copy)[0]
    weights = first / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    here(["runner=sample", "model=checkpoint", f"model.path='{first}'"], status=2)
    error = capsys.readouterr().err
    assert error.startswith("error: model.path")
    assert "model.safetensors" in error
    assert error.count("\n") == 1


def test_a_divergence_ends_the_run_and_names_the_pairs(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here([*QUICKSTART, "optimizer=sgd", "optimizer.lr=1e30", "trainer.clip=null"], status=1)
    facts = strict((path / "run.json").read_text())
    assert facts["status"] == "diverged"
    assert re.search(r"at step \d+, on the pairs with ids \[\d+(, \d+)*\]", facts["reason"])
    assert facts["reason"] in " ".join(capsys.readouterr().out.split("\n"))
    assert not (path / "summary.json").exists()
    assert not (path / "policy").exists()
    for row in lines(path / "metrics.jsonl"):
        assert row["split"] in {"train", "eval"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so(number: signal.Signals, tmp_path: Path) -> None:
    words = [word for word in QUICKSTART if not word.startswith("trainer.")]
    words += ["trainer.max_steps=1000000", "trainer.batch_size=4", "trainer.log_every=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*LAB, *words], cwd=tmp_path, env=ENVIRONMENT, text=True, **pipes)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 90
        while not any("train" in file.read_text() for file in tmp_path.glob("runs/*/*/metrics.jsonl")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, out + error
    (path,) = runs_of(tmp_path)
    assert strict((path / "run.json").read_text())["status"] == "preempted"
    assert lines(path / "metrics.jsonl")[-1]["step"] >= 1
    assert "warning: interrupted" in out
    assert "Traceback" not in out + error


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory for commands given to `here`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("tokenizer", ["byte", "bpe", "word"])
def test_given_pairs_train_with_every_tokenizer(tokenizer: str, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"item {i} is", "chosen": " good, für immer 👍", "rejected": " bad"} for i in range(60)]
    rows += [{"prompt": "same", "chosen": " x", "rejected": " x"}, {"prompt": "none", "chosen": " x", "rejected": ""}]
    (empty / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["data=pairs", "data.path=pairs.jsonl", "data.eval_share=0.4", f"tokenizer={tokenizer}", *SMALL_MODEL, *SMALL_RUN]
    path = here([*words, "candidates.max_tokens=48"])
    out = capsys.readouterr().out
    assert "62 pairs read" in out
    assert "1 left out, identical completions" in out
    assert "1 left out, empty completion" in out
    metrics, summary = lines(path / "metrics.jsonl"), strict((path / "summary.json").read_text())
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # float32
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert "kl" in summary
    assert "reward/policy" not in summary, "nothing scores samples here"
    assert outcomes(out, "pairs") == {"built"}
    again = here([*words, "candidates.max_tokens=48", "loss=ipo", "trainer.max_steps=1"])
    assert outcomes(capsys.readouterr().out, "pairs") == {"reused"}
    assert lines(again / "metrics.jsonl")[0]["logps/chosen"] == metrics[0]["logps/chosen"]


@pytest.mark.parametrize("experiment", IMDB)
def test_every_imdb_experiment_runs_on_a_small_file(experiment: str, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reviews = write_reviews(empty / "reviews.csv", 400)
    words = [f"+experiment={experiment}", f"data.path={reviews}", *SMALL_MODEL, *SMALL_RUN, *SMALL_SAMPLES]
    words += ["trainer.max_pairs=null", "trainer.max_minutes=null"]
    words += ["base.trainer.max_pairs=null", "base.trainer.max_minutes=null"]
    path = here(words)
    assert capsys.readouterr().err == ""
    summary = strict((path / "summary.json").read_text())
    assert {"kl", "reward/policy", "reward/reference", "proxy/policy", "win_rate", "best_of_n"} <= set(summary)
    assert (path / "figure.png").stat().st_size > 10_000
