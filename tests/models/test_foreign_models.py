"""Directories of other tools: what cannot be used is said in one line when it is opened, and what decides is in the keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hugging_face import write_model
from tokenizers import AddedToken, Tokenizer
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel

from dpo_lab.artifacts.directory import MANIFEST
from dpo_lab.models.foreign_directory import check_directory
from dpo_lab.models.generation import sample
from dpo_lab.models.policies import load_any_policy, load_policy, spec_class, starting_policy
from dpo_lab.models.pretrained import PretrainedSpec
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.logps import score
from dpo_lab.seeding import stream


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Path:
    """A copy of the model to change."""
    return shutil.copytree(model, tmp_path / "own")


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at it
        starting_policy(PretrainedSpec(path=str(path)))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model.path: ")
    assert str(path) in message
    return message


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **values}))


def add_tokens(path: Path, *tokens: AddedToken) -> None:
    words = Tokenizer.from_file(str(path / "tokenizer.json"))
    words.add_tokens(list(tokens))
    words.save(str(path / "tokenizer.json"))


def test_a_directory_without_a_tokenizer_is_refused_with_the_files_that_it_lacks(own: Path) -> None:
    settings = (own / "tokenizer_config.json").rename(own / "away")
    with pytest.raises(ValueError, match=r"there is no tokenizer_config.json in .*, which would name the eos_token"):
        starting_policy(PretrainedSpec(path=str(own)))
    settings.rename(own / "tokenizer_config.json")
    (own / "tokenizer.json").unlink()
    assert "holds no tokenizer; expected tokenizer.json" in refusal(own), "settings alone are none"
    (own / "vocab.json").write_text("{}")
    (own / "tokenizer_config.json").unlink()
    assert "tokenizer" in refusal(own)


def test_pickled_weights_are_refused_and_so_are_none(own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model-00001-of-00001.bin")
    assert "are pickled (pytorch_model-00001-of-00001.bin)" in refusal(own)
    (own / "pytorch_model-00001-of-00001.bin").unlink()
    (own / "training_args.bin").touch()
    assert "holds no weights; expected model.safetensors" in refusal(own)
    torch.save({}, own / "pytorch_model.bin")
    (own / "other.safetensors").touch()
    assert "cannot be read" in refusal(own), "transformers does not fall back to the pickle either"


def test_a_context_that_is_too_short_comes_with_advice_that_the_model_can_follow(own: Path) -> None:
    opened = starting_policy(PretrainedSpec(path=str(own)))
    assert opened is not None
    module = opened[0].module
    rows = torch.ones(1, 1, module.max_seq_len + 2, dtype=torch.long)
    batch = CandidateBatch(rows[0], rows[0].bool(), rows, rows.bool(), torch.arange(1), torch.ones(1))
    streams = stream(0, "test").branches(1)
    for ask in (lambda: score(module, batch), lambda: sample(module, rows[0], rows[0].bool(), 3, ends=[1], streams=streams)):
        with pytest.raises(ValueError, match="max_prompt_tokens") as caught:
            ask()
        assert "model.context" not in str(caught.value)


@pytest.mark.parametrize("also_a_model", [True, False])
def test_an_adapter_is_called_one(own: Path, also_a_model: bool) -> None:
    change(own / "adapter_config.json", base_model_name_or_path="some/base")
    if not also_a_model:
        (own / "config.json").unlink()
        (own / "model.safetensors").rename(own / "adapter_model.safetensors")
    assert "is an adapter of some/base (adapter_config.json), not a model: merge the two first" in refusal(own)
    with pytest.raises(ValueError, match="is an adapter of some/base"):
        load_any_policy(own)
    (own / "adapter_config.json").write_text("[]")
    assert "adapter_config.json must hold an object, found list" in refusal(own)
    (own / "adapter_config.json").write_text("{")
    assert "adapter_config.json is not JSON" in refusal(own)


def test_a_tokenizer_with_tokens_that_have_no_embedding_is_refused_with_both_sizes(own: Path) -> None:
    size = Tokenizer.from_file(str(own / "tokenizer.json")).get_vocab_size()
    add_tokens(own, AddedToken("<tool>", special=False))
    message = refusal(own)
    assert f"has {size + 1} tokens and the model embeddings of {size}: there is none for '<tool>'" in message


def test_a_special_token_without_an_embedding_does_no_harm_where_nothing_writes_it(own: Path) -> None:
    add_tokens(own, AddedToken("<image>", special=True))
    assert starting_policy(PretrainedSpec(path=str(own))) is not None
    (own / "chat_template.jinja").write_text("{% for m in messages %}<image>{{ m.content }}{% endfor %}")
    assert "there is none for '<image>'" in refusal(own)


def test_a_network_that_sees_what_follows_is_refused(own: Path) -> None:
    size = Tokenizer.from_file(str(own / "tokenizer.json")).get_vocab_size()
    sizes = {"vocab_size": size, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(own)
    assert "holds a BertForMaskedLM, which fills in masked tokens" in refusal(own)
    change(own / "config.json", architectures=["Unheard"])
    assert "is a BertLMHeadModel whose tokens see those that follow" in refusal(own)
    BertLMHeadModel(BertConfig(**sizes, is_decoder=True)).save_pretrained(own)
    assert starting_policy(PretrainedSpec(path=str(own))) is not None


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("generation_config.json", {"eos_token_id": [1, 0]}),
        ("chat_template.jinja", {"text": "{{ messages }}"}),
        ("tokenizer_config.json", {"x": 1}),
    ],
)
def test_a_changed_template_or_generation_setting_changes_the_key(own: Path, file: str, values: dict[str, object]) -> None:
    spec = PretrainedSpec(path=str(own))
    before = starting_policy(spec)
    change(own / file, **values)
    after = starting_policy(spec)
    assert before is not None
    assert after is not None
    assert before[1] != after[1]


def test_what_ends_a_turn_survives_saving_and_an_export(own: Path, tmp_path: Path) -> None:
    change(own / "generation_config.json", eos_token_id=[1, 0])
    opened = starting_policy(PretrainedSpec(path=str(own)))
    assert opened is not None
    opened[0].save(tmp_path / "policy")
    assert load_policy(tmp_path / "policy").tokenizer.ends == opened[0].tokenizer.ends == (1, 0)


def test_an_export_of_ours_is_a_model_as_others_are(own: Path) -> None:
    (own / MANIFEST).write_text("{}")
    assert spec_class(own) is PretrainedSpec


def test_a_whole_directory_is_accepted(model: Path) -> None:
    check_directory(model)
