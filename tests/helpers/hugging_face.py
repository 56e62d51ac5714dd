"""Hugging Face models of every make, as small as they come, made here: nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging
from xtransformers import CONTEXT, VOCAB

logging.set_verbosity_error()
logging.disable_progress_bar()

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # large enough to have opinions
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
MIXED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}

GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT, "initializer_range": 0.3, "vocab_size": VOCAB}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", GROUPED),
    "Llama, tied": ("llama", {**GROUPED, "tie_word_embeddings": True}),
    "GPT-2": ("gpt2", {**GPT2, **ENDS}),  # learned positions, tied, dropout
    "GPT-NeoX": ("gpt_neox", SIZES),
    "Qwen2": ("qwen2", GROUPED),
    "Qwen2, windows": ("qwen2", {**GROUPED, **MIXED, "use_sliding_window": True}),
    "Qwen3": ("qwen3", {**GROUPED, "head_dim": 8}),
    "Mistral, a window": ("mistral", {**GROUPED, "sliding_window": 4}),
    "Gemma": ("gemma", {**GROUPED, "head_dim": 8}),
    "Gemma 2": ("gemma2", {**GROUPED, "head_dim": 8, **MIXED, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.0}),
    "Gemma 3": ("gemma3_text", {**GROUPED, "head_dim": 8, **MIXED}),
    "Granite": ("granite", {**GROUPED, "logits_scaling": 3.0, "residual_multiplier": 0.5}),
    "Cohere": ("cohere", {**GROUPED, "logit_scale": 0.3}),
    "OPT": ("opt", {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16, "init_std": 0.3}),
}


def network(architecture: str, **others: Any) -> PreTrainedModel:
    """In float64. The same weights each time."""
    kind, sizes = ARCHITECTURES[architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **others})).double().eval()


TEXTS = [f"{who} {verb} on {what}" for who in ("the cat", "a dog") for verb in ("sat", "ran") for what in ("the mat", "a log")]


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token=special[1])


def write_model(path: Path, architecture: str = "Llama", **others: Any) -> Path:
    """A directory as Hugging Face's libraries write it: config.json, model.safetensors and the tokenizer's files."""
    words = tokenizer()
    network(architecture, vocab_size=len(words), **others).float().save_pretrained(path)
    words.save_pretrained(path)
    return path
