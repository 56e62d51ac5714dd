"""Policies on disk: the same network comes back, or a message that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dpo_lab.data.tokenizers import TOKENIZERS
from dpo_lab.models.policies import Policy, load_policy
from dpo_lab.models.transformer import TransformerSpec

TOKENS = torch.tensor([[1, 4, 2, 6], [0, 3, 5, 1]])
tied = pytest.mark.parametrize("tie", [False, True])


def policy(tie: bool = False) -> Policy:
    torch.manual_seed(0)
    spec = TransformerSpec(dim=8, depth=1, heads=1, context=8, tie_embedding=tie)
    tokenizer = TOKENIZERS["word"]().train(["a b c d"])
    return Policy(spec, spec.build(tokenizer.vocab_size), tokenizer)


@torch.no_grad()
def logits(made: Policy | torch.nn.Module) -> Tensor:
    module = made.module if isinstance(made, Policy) else made
    return module.eval()(TOKENS)


@tied
def test_a_loaded_policy_has_the_same_logits_tokens_and_architecture(tmp_path: Path, tie: bool) -> None:
    saved = policy(tie)
    saved.save(tmp_path / "p")
    torch.manual_seed(7)
    loaded = load_policy(tmp_path / "p")
    assert torch.equal(logits(loaded), logits(saved))
    assert loaded.spec == saved.spec
    assert loaded.tokenizer.encode("a d b zebra") == saved.tokenizer.encode("a d b zebra")


def test_a_run_directory_loads_as_the_policy_in_it(tmp_path: Path) -> None:
    saved = policy()
    saved.save(tmp_path / "run" / "policy")
    assert torch.equal(logits(load_policy(tmp_path / "run")), logits(saved))


def test_saving_again_replaces_the_policy(tmp_path: Path) -> None:
    saved = policy()
    saved.save(tmp_path / "p")
    with torch.no_grad():
        for parameter in saved.module.parameters():
            parameter.mul_(1.5)
    saved.save(tmp_path / "p")
    assert torch.equal(logits(load_policy(tmp_path / "p")), logits(saved))


@tied
def test_a_copy_says_the_same_and_shares_nothing(tie: bool) -> None:
    made = policy(tie)
    before = logits(made)
    twin = made.copy()
    assert torch.equal(logits(twin), before)
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in made.module.parameters()}
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += torch.randn_like(parameter)
    assert torch.equal(logits(made), before)
    moved = logits(twin)
    assert not torch.allclose(moved, before, atol=0.1)
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter += torch.randn_like(parameter)
    assert torch.equal(logits(twin), moved)


def test_any_damage_is_told_in_one_message(tmp_path: Path) -> None:
    policy().save(tmp_path / "p")
    files = sorted(p for p in (tmp_path / "p").iterdir())
    assert {p.name for p in files} == {
        "model.safetensors",
        "config.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
        "manifest.json",
    }
    for file in files:
        whole = file.read_bytes()
        for damaged in (whole[:-3], b"", whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"model\.path: .*it is no complete policy"):
                load_policy(tmp_path / "p")
        file.unlink()
        with pytest.raises(ValueError, match=rf"model\.path: .*{file.name}.*it is no complete policy"):
            load_policy(tmp_path / "p")
        file.write_bytes(whole)
    load_policy(tmp_path / "p")


def test_a_directory_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.path: .*no readable manifest\.json; it is no complete policy"):
        load_policy(tmp_path / "nothing")
