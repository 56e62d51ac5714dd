"""What the comparisons with TRL run on: a tokenizer of words, a tiny Llama, texts of unequal lengths, trainers of these.

The folder is not called trl: `tests` is on the import path, and the library has that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, TrainingArguments
from transformers.trainer import Trainer as HFTrainer
from trl import DPOConfig, DPOTrainer

datasets.disable_progress_bars()

# TRL 1.16.0 itself asks transformers 5.23.0 by the old name.
old_names = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WORDS = "the a cat dog bird sat ran flew sang on under over mat log tree red old small fast slow and then again home"
TOKENS = ["<pad>", "<eos>", "<unk>", *WORDS.split()]

ROWS = [
    {"prompt": "the cat", "chosen": " sat on the mat", "rejected": " ran"},
    {"prompt": "a small red bird", "chosen": " sang", "rejected": " flew over the old tree and then home"},
    {"prompt": "the", "chosen": " dog ran home", "rejected": " log sat again"},
    {"prompt": "a slow old dog and a fast cat", "chosen": " ran and ran again", "rejected": "<eos>"},
    {"prompt": "then the bird", "chosen": "<eos>", "rejected": " sang and sang"},
]
"""Chosen longer, shorter and as long as rejected; two completions that end at once."""
SWAPPED = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
EQUALLY_LONG = [
    {"prompt": "the cat", "chosen": " sat on the mat", "rejected": " ran"},
    {"prompt": "a small red bird", "chosen": " flew over the tree", "rejected": " sang and sang over the old log again"},
]
"""Their chosen completions: then a mean over tokens is a mean over completions."""


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(TOKENS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def llama(seed: int = 0, moved: float = 0.0) -> LlamaForCausalLM:
    """A model with weights large enough to have opinions, and then all of them `moved` by noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(TOKENS),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=64,
                initializer_range=0.3,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=1,
            )
        )
        with torch.no_grad():
            for weight in model.parameters():
                weight += moved * torch.randn_like(weight)
        return model


def pair_of_models() -> dict[str, LlamaForCausalLM]:
    """A policy, and a reference that it has moved away from."""
    return {"model": llama(), "ref_model": llama(moved=0.05)}


def build(
    trainer: type[HFTrainer],
    config: type[TrainingArguments],
    path: Path,
    models: Mapping[str, LlamaForCausalLM],
    rows: Sequence[Mapping[str, Any]] = ROWS,
    callbacks: Sequence[TrainerCallback] = (),
    **options: Any,
) -> Any:
    """One of TRL's trainers, all rows in one batch and in their order."""
    defaults = {
        "output_dir": str(path),
        "per_device_train_batch_size": len(rows),
        "train_sampling_strategy": "sequential",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    data = datasets.Dataset.from_list([dict(row) for row in rows])
    return trainer(
        args=config(**{**defaults, **options}),
        train_dataset=data,
        processing_class=tokenizer(),
        callbacks=list(callbacks),
        **models,
    )


def dpo_trainer(path: Path, **options: Any) -> DPOTrainer:
    return build(DPOTrainer, DPOConfig, path, **{"models": pair_of_models(), **options})
