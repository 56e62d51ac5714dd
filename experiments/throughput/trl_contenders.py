"""TRL's DPOTrainer as contenders of the benchmark: one more of the study's user modules.

Needs `pip install trl==1.16.0`. Its model is a Llama of the same shape: width, blocks, heads, rotary positions, RMS norm,
gated SiLU of the same inner width, fused attention.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.training.compute import Precision
from experiments.throughput.benchmark import CONTENDERS, Contender, Setting, Step

datasets.disable_progress_bars()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of its own old names, which TRL uses


@CONTENDERS.register
@dataclass
class TrlLive(Contender):
    """compute_loss and backward of TRL's trainer on one of its own batches; the reference runs at every step."""

    name: str = "trl_live"
    precomputed: bool = False
    compiled: bool = False
    trainer: Any = field(default=None, init=False)

    def prepare(self, setting: Setting) -> Step:
        device = setting.compute.torch_device
        arguments = DPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=len(setting.batch),
            precompute_ref_log_probs=self.precomputed,
            beta=setting.beta,
            max_length=None,
            use_cpu=device.type == "cpu",
            bf16=setting.compute.precision is Precision.bf16,
            activation_checkpointing=False,
            train_sampling_strategy="sequential",
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        )
        self.trainer = DPOTrainer(
            model=llama(setting),
            ref_model=llama(setting),
            args=arguments,
            train_dataset=datasets.Dataset.from_list(list(texts(setting))),
            processing_class=tokenizer(setting.vocab_size),
        )
        inputs = next(iter(self.trainer.get_train_dataloader()))
        model = self.trainer.accelerator.prepare(self.trainer.model)  # as training does: it casts to the precision asked for
        if self.compiled:
            for layer in self.trainer.model.base_model.layers:
                layer.compile(dynamic=True)
        lengths = inputs["attention_mask"].sum(dim=1) - inputs["completion_mask"].sum(dim=1)
        assert lengths[: len(setting.batch)].tolist() == setting.batch.prompt_mask.sum(dim=1).tolist(), "TRL has other prompts"

        def step() -> None:
            with self.trainer.compute_loss_context_manager():
                loss = self.trainer.compute_loss(model, inputs)
            loss.backward()

        return step

    def model(self, setting: Setting) -> nn.Module:
        return self.trainer.model


@CONTENDERS.register
@dataclass
class TrlPrecomputed(TrlLive):
    """The same with the reference's log-probabilities computed before training."""

    name: str = "trl_precomputed"
    precomputed: bool = True


@CONTENDERS.register
@dataclass
class TrlCompiled(TrlLive):
    """And with its layers compiled, for shapes that vary."""

    name: str = "trl_compiled"
    precomputed: bool = True
    compiled: bool = True


def llama(setting: Setting) -> LlamaForCausalLM:
    spec = setting.spec
    assert isinstance(spec, TransformerSpec)
    gates = next(p for name, p in setting.policy.named_parameters() if name.endswith("ff.0.proj.weight"))
    torch.manual_seed(0)
    with setting.compute.torch_device:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=setting.vocab_size,
                hidden_size=spec.dim,
                intermediate_size=gates.shape[0] // 2,
                num_hidden_layers=spec.depth,
                num_attention_heads=spec.heads,
                num_key_value_heads=spec.heads,
                max_position_embeddings=spec.context + 8,
                attn_implementation="sdpa",
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=1,
            )
        )


def tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Token i is written w<i>."""
    special = ["<pad>", "<eos>", "<unk>"]
    names = special + [f"w{i}" for i in range(len(special), vocab_size)]
    words = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def texts(setting: Setting) -> Iterator[dict[str, str]]:
    """The batch as text. TRL adds an end token to a completion, so the last one is left out."""

    def text(tokens: torch.Tensor) -> str:
        return " ".join(f"w{i}" for i in tokens.tolist())

    batch = setting.batch.to(torch.device("cpu"))
    for row in range(len(batch)):
        chosen, rejected = (batch.completions[c, row][batch.mask[c, row]][:-1] for c in range(2))
        prompt = batch.prompt[row][batch.prompt_mask[row]]
        yield {"prompt": text(prompt), "chosen": f" {text(chosen)}", "rejected": f" {text(rejected)}"}
