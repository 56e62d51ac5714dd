"""Runs that start from a Hugging Face model: trained whole or through an adapter, reloaded, sampled from, exported."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hugging_face import TEXTS, write_model
from peft import AutoPeftModelForCausalLM
from processes import runs_of
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from x_transformers import Decoder, TransformerWrapper

from dpo_lab.cli.main import run_command
from dpo_lab.data.base import share_of
from dpo_lab.data.tokenizers import TOKENIZERS
from dpo_lab.models import MODELS
from dpo_lab.models.copies import freeze
from dpo_lab.models.lora import Lora
from dpo_lab.models.policies import Policy, load_policy, starting_policy
from dpo_lab.models.pretrained import PretrainedSpec
from dpo_lab.training.optimizers import OPTIMIZERS
from dpo_lab.training.references import REFERENCES, Reference, ReferenceSpec

DATA = ["data=pairs", "data.path=pairs.jsonl", "data.eval_share=0.3", "candidates.max_tokens=8"]
SMALL = [
    *("trainer.max_steps=4", "trainer.batch_size=4", "trainer.log_every=2", "optimizer.lr=0.01"),
    *("evaluation.num_prompts=4", "evaluation.num_prompts_during=2"),
]
TOKENS = torch.tensor([[0, 5, 260, 265, 7]])


@dataclass
class Lab:
    """A working directory with a model and pairs in it, and what training left there."""

    folder: Path
    whole: Path
    adapter: Path
    printed: str


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder, out = tmp_path_factory.mktemp("lab"), io.StringIO()
    write_model(folder / "tiny", tie_word_embeddings=True)
    rows = [{"prompt": f"{text} {i}", "chosen": " sat", "rejected": " ran home"} for text in TEXTS for i in range(2)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(folder)
        patch.setattr(sys, "argv", sys.argv)
        yield Lab(folder, train(), train("model.lora.rank=2", "reference=frozen", "trainer.eval_every=2"), out.getvalue())
    signal.signal(signal.SIGTERM, handler)


def run(*words: str, status: int = 0) -> Path:
    """The newest run directory after the command."""
    assert run_command(words) == status
    return runs_of(Path.cwd())[-1]


def train(*words: str) -> Path:
    return run("model=pretrained", "model.path=tiny", *DATA, *SMALL, *words)


@torch.no_grad()
def logits(path: Path) -> Tensor:
    return load_policy(path).module.eval()(TOKENS)


@torch.no_grad()
def theirs(net: torch.nn.Module) -> Tensor:
    return net.eval()(input_ids=TOKENS).logits


def original() -> Tensor:
    return theirs(AutoModelForCausalLM.from_pretrained("tiny"))


def summary(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((path / "summary.json").read_text())
    return found


def first_metrics(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((path / "metrics.jsonl").read_text().splitlines()[0])
    return found


def test_a_model_is_trained_whole_and_its_policy_directory_is_one_of_transformers(lab: Lab, tmp_path: Path) -> None:
    assert first_metrics(lab.whole)["loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert summary(lab.whole)["eval/rewards/accuracies"] > 0.5
    assert summary(lab.whole)["kl"] > 0
    assert (logits(lab.whole) - original()).abs().max() > 0.01
    moved = shutil.copytree(lab.whole / "policy", tmp_path / "policy")  # needs nothing but itself
    assert torch.equal(theirs(AutoModelForCausalLM.from_pretrained(moved)), logits(lab.whole))
    assert torch.equal(logits(moved), logits(lab.whole))
    words = AutoTokenizer.from_pretrained(moved)
    assert words("the cat", add_special_tokens=False).input_ids == load_policy(moved).tokenizer.encode("the cat")


def test_a_model_is_trained_without_a_reference(lab: Lab) -> None:
    saving = ["compute.head_portion=3", "compute.checkpointing=true", "trainer.micro_batch_tokens=40"]
    path = train("reference=none", "loss=simpo", "trainer.max_steps=1", *saving)
    assert (logits(path) - original()).abs().max() > 0.005


def test_an_adapter_is_all_that_is_kept_of_it_and_comes_back(lab: Lab) -> None:
    assert "M of them trained" in lab.printed
    first = first_metrics(lab.adapter)
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert first["rewards/margins"] == 0, "reference and policy are the same weights, with an adapter that is 0"
    assert (logits(lab.adapter) - original()).abs().max() > 0.01
    states = [*lab.adapter.glob("checkpoints/*/model.safetensors"), lab.adapter / "policy" / "model.safetensors"]
    assert len(states) > 1
    for state in states:
        assert all(".lora_" in name for name in load_file(state))
    assert (lab.adapter / "policy" / "model.safetensors").stat().st_size < 20_000
    run("runner=sample", "model=checkpoint", f"model.path={lab.adapter}", "runner.prompt='the cat'", "runner.max_tokens=3")
    again = run("model=checkpoint", f"model.path={lab.adapter}", *DATA, *SMALL, "trainer.max_steps=1", "optimizer.lr=0")
    assert torch.equal(logits(again), logits(lab.adapter)), "an adapter is trained on from where it is"


def test_an_adapter_without_its_model_is_refused(lab: Lab, tmp_path: Path) -> None:
    spec = PretrainedSpec(path=str(write_model(tmp_path / "base")), lora=Lora(rank=1))
    found = starting_policy(spec)
    assert found is not None
    found[0].save(tmp_path / "p")
    assert torch.equal(logits(tmp_path / "p"), theirs(AutoModelForCausalLM.from_pretrained(tmp_path / "base")))
    write_model(tmp_path / "base", initializer_range=0.2)
    with pytest.raises(ValueError, match=r"is an adapter of the model at .*base, which is not there as it was"):
        load_policy(tmp_path / "p")


def test_policy_and_reference_share_what_is_under_an_adapter(lab: Lab) -> None:
    found = starting_policy(PretrainedSpec(path="tiny", lora=Lora(rank=1)))
    assert found is not None
    base = found[0]
    policy = base.copy()
    ours, others = dict(base.module.named_parameters()), dict(policy.named_parameters())
    assert {name for name in ours if ours[name] is not others[name]} == {f"net.{name}" for name in base.module.trained}
    before = base.module(TOKENS)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    assert torch.equal(base.module(TOKENS), before)
    assert not torch.allclose(policy(TOKENS), before)
    (optimizer,) = OPTIMIZERS["adamw"]().build(policy)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(base.module.trained)


@pytest.mark.parametrize("spec", [REFERENCES["synced"](sync_every=1), REFERENCES["ema"](update_every=1)])
def test_a_reference_that_moves_leaves_what_is_under_the_adapter(lab: Lab, spec: ReferenceSpec) -> None:
    found = starting_policy(PretrainedSpec(path="tiny", lora=Lora(rank=1)))
    assert found is not None
    policy, moving = found[0].copy(), freeze(found[0].copy())
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    fixed = [weight.clone() for weight in policy.fixed()]
    Reference(spec, moving).follow(policy, 1)
    assert all(torch.equal(one, other) for one, other in zip(policy.fixed(), fixed, strict=True))
    assert not torch.allclose(moving(TOKENS), found[0].module(TOKENS))


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_an_exported_model_is_the_policy(lab: Lab, tmp_path: Path, kind: str) -> None:
    path, to = getattr(lab, kind), tmp_path / "exported"
    run("runner=export", "model=checkpoint", f"model.path={path}", f"runner.to={to}")
    exported = theirs(AutoModelForCausalLM.from_pretrained(to))
    torch.testing.assert_close(exported, logits(path), rtol=1e-4, atol=1e-5)  # merged, the adapter is rounded otherwise
    assert (exported - original()).abs().max() > 0.01
    assert AutoTokenizer.from_pretrained(to)("a dog").input_ids == load_policy(path).tokenizer.encode("a dog")
    again = starting_policy(PretrainedSpec(path=str(to)))
    assert again is not None
    with torch.no_grad():
        assert torch.equal(again[0].module(TOKENS), exported)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks by the old name
def test_an_adapter_is_exported_alone_as_peft_reads_it(lab: Lab, tmp_path: Path) -> None:
    to = tmp_path / "exported"
    run("runner=export", "model=checkpoint", f"model.path={lab.adapter}", f"runner.to={to}", "runner.merge=false")
    assert "model.safetensors" not in {file.name for file in to.iterdir()}
    adapter = AutoPeftModelForCausalLM.from_pretrained(to)
    torch.testing.assert_close(theirs(adapter), logits(lab.adapter), rtol=1e-5, atol=1e-6)


def test_an_exported_transformer_is_one_of_x_transformers(lab: Lab, tmp_path: Path) -> None:
    spec = MODELS["tiny"](kv_heads=1, tie_embedding=True, qk_norm=True, context=16)
    words = TOKENIZERS["byte"]().train([])
    made = Policy(spec, spec.build(words.vocab_size), words)
    made.save(tmp_path / "p")
    run("runner=export", "model=checkpoint", f"model.path={tmp_path / 'p'}", f"runner.to={tmp_path / 'exported'}")
    options = json.loads((tmp_path / "exported" / "x_transformers.json").read_text())
    net = TransformerWrapper(attn_layers=Decoder(**options["decoder"], verbose=False), **options["wrapper"])
    net.load_state_dict(load_file(tmp_path / "exported" / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(net.eval()(TOKENS % 250), made.module.eval()(TOKENS % 250))
    assert AutoTokenizer.from_pretrained(tmp_path / "exported")("a dog").input_ids


def test_the_reference_may_be_another_policy(lab: Lab, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", "GPT-2", n_positions=64)
    found, own = first_metrics(train(f"reference.path={other}", "trainer.max_steps=1")), first_metrics(lab.whole)
    assert found["kl"] == pytest.approx(0, abs=1e-5), "the distance is that from where training began"
    assert found["logps/chosen"] == own["logps/chosen"] == pytest.approx(own["ref_logps/chosen"])
    assert abs(found["ref_logps/chosen"] - own["ref_logps/chosen"]) > 0.1


def test_a_policy_is_scored_on_the_pairs_of_a_file(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    Path("swapped.jsonl").write_text(
        "\n".join(json.dumps({**row, "chosen": row["rejected"], "rejected": row["chosen"], "canary": "x"}) for row in rows)
    )
    new = [{**row, "prompt": f"{row['prompt']} again"} for row in rows[:5]]
    Path("new.jsonl").write_text("\n".join(map(json.dumps, new)))
    there, back, elsewhere = (
        summary(run("runner=evaluate", "model=checkpoint", f"model.path={lab.adapter}", f"runner.pairs={name}.jsonl"))
        for name in ("pairs", "swapped", "new")
    )
    trained_on = sum(share_of(row["prompt"]) >= 0.3 for row in rows)
    assert there["num_trained_on"] == back["num_trained_on"] == trained_on > len(rows) / 2, "whichever side is chosen"
    assert elsewhere["num_trained_on"] == elsewhere["num_prompts_trained_on"] == 0
    assert there["num_pairs"] == len(rows)
    assert there["rewards/accuracies"] > 0.5
    assert there["rewards/accuracies"] + back["rewards/accuracies"] == pytest.approx(1)
    assert there["rewards/margins"] == pytest.approx(-back["rewards/margins"], rel=1e-4)


def test_what_cannot_be_is_refused_before_any_work(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = lab.folder, lab.adapter
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text('{"model_type": "no_such"}')
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(folder / "tiny" / name, folder / "broken")
    write_model(folder / "others")
    words = json.loads((folder / "others" / "tokenizer.json").read_text())
    words["model"]["vocab"] = {token if i != 9 else "zzz": i for token, i in words["model"]["vocab"].items()}
    (folder / "others" / "tokenizer.json").write_text(json.dumps(words))
    for given, message in {
        ("model.path=nowhere",): "model.path: there is no directory nowhere; nothing is downloaded",
        ("model.path=empty",): "model.path: empty holds no config.json; what was trained here loads with model=checkpoint",
        ("model.path=broken",): "model.path: broken cannot be read: ",
        ("model.path=tiny", "model.gguf_file=x.gguf"): "model.gguf_file: tiny holds no x.gguf",
        ("model.path=tiny", "model.lora.rank=0"): "model.lora.rank must be at least 1, got 0",
        ("model.path=tiny", "model.lora.rank=2", "model.lora.targets=[zzz]"): "model.lora.targets: ",
        ("model.path=tiny", "model.dtype=bf16"): "model.dtype=bf16 is for adapters (model.lora.rank=...)",
        ("model.path=tiny", "reference.path=nowhere"): "reference.path: there is no directory nowhere",
        ("model.path=tiny", "reference.path=others"): "reference.path: others has another vocabulary than the policy",
        (f"model.path={path}",): "holds no config.json; what was trained here loads with model=checkpoint",
    }.items():
        capsys.readouterr()
        assert run_command(["model=pretrained", *DATA, *SMALL, *given]) == 2, given
        error = capsys.readouterr().err
        assert f"error: {message}" in error or message in error, given
        assert error.count("\n") == 1
    for given, message in {
        ("runner=export",): "runner=export needs a trained policy",
        ("runner=export", "model=checkpoint", f"model.path={path}"): "runner.to is not set",
        ("runner=export", "model=checkpoint", f"model.path={path}", "runner.to=tiny"): "runner.to: tiny is there already",
    }.items():
        assert run_command(given) == 2
        assert message in capsys.readouterr().err


MALICIOUS = """
from pathlib import Path
Path("ran").touch()
from transformers import LlamaConfig, LlamaForCausalLM
class Own(LlamaForCausalLM): ...
class OwnConfig(LlamaConfig): model_type = "own"
"""


def test_code_that_comes_with_a_model_runs_only_if_the_command_line_says_so(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path
    write_model(folder / "tiny")
    shutil.copy(lab.folder / "pairs.jsonl", folder)
    config = json.loads((folder / "tiny" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (folder / "tiny" / "config.json").write_text(json.dumps(config))
    (folder / "tiny" / "own.py").write_text(MALICIOUS)
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "bad.yaml").write_text(
        "# @package _global_\ndefaults: [override /model: pretrained]\nmodel: {path: tiny, trust_remote_code: true}\n"
    )
    words = ["model=pretrained", "model.path=tiny", *DATA, *SMALL]
    assert run_command(words) == 2
    assert run_command(["--config-dir", "conf", "+experiment=bad", *DATA, *SMALL]) == 2
    assert "model.trust_remote_code is for the command line alone" in capsys.readouterr().err
    assert not (folder / "ran").exists()


def test_the_lab_imports_nothing_of_hugging_face_unless_a_model_asks_for_it() -> None:
    code = "import sys, dpo_lab.__main__; sys.exit(any(name in sys.modules for name in ('transformers', 'peft', 'gguf')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
