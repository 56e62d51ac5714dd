"""Samples of the base policy, with their rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from dpo_lab.artifacts.fingerprint import code_of
from dpo_lab.data.messages import Prompt, UntokenizableError, plain
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.models.policies import Policy
from dpo_lab.pipeline.stages.reward import Scorers
from dpo_lab.pipeline.stages.text import FORMAT, Text
from dpo_lab.preferences.batches import padded
from dpo_lab.preferences.sampling import draw
from dpo_lab.records import CandidateBatch
from dpo_lab.seeding import permutation


def encoded_prompts(text: Text, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[list[int]]:
    """Ids of the prompts; those that cannot become tokens are left out as bad rows are, and counted."""
    encoded, bad = [], []
    for prompt in prompts:
        try:
            encoded.append(tokenizer.encode_prompt(prompt))
        except UntokenizableError as error:
            bad.append(f"{error}, in the prompt that begins {plain(prompt)[:60]!r}")
            if not text.study.data.skips_bad_rows:
                raise ValueError(bad[-1]) from error
    if bad:
        text.context.console.note(f"  {len(bad):,} of {len(prompts):,} prompts left out, as they cannot become tokens")
    if not encoded:
        raise ValueError(f"of {len(prompts):,} prompts none can become tokens, such as: {bad[0]}")
    return encoded


def samples_of(
    text: Text, policy: Policy, policy_key: str, scorers: Scorers, kind: str, split: str, drawn: Mapping[str, Any]
) -> CandidateBatch:
    """Samples for prompts of the text as `drawn` says, in descending order of reward if there is one."""
    study = text.study

    def build(directory: Path) -> None:
        prompts = text.prompts(split, drawn["num_prompts"], drawn["seed"])
        starts = padded(encoded_prompts(text, prompts, policy.tokenizer))
        batch = draw(
            policy.module,
            policy.tokenizer,
            scorers.proxy,
            *starts,
            drawn["k"],
            drawn["max_tokens"],
            temperature=drawn["temperature"],
            seed=drawn["seed"],
            purpose=kind,
        )
        tensors = {name: tensor.contiguous() for name, tensor in batch.tensors().items()}
        save_file(tensors, directory / "batch.safetensors")

    what = f"{drawn['k']} for each of {drawn['num_prompts']:,} {split} prompts"
    with text.context.stage(kind.replace("_", " "), what) as stage:
        reward = {"reward": study.reward, "files": study.reward.fingerprint(), "scorer": scorers.keys[:1]}
        determined_by = {"base": policy_key, "text": text.key, **reward, "split": split, **drawn, "format": FORMAT}
        networks = {type(module) for module in policy.module.modules()}
        code = code_of(draw.__module__, permutation.__module__, *networks, Text.prompts) | text.code(study.reward)
        path, _ = text.artifact(stage, kind, determined_by, build, code, study.compute.rounding())
        batch = CandidateBatch.from_tensors(load_file(path / "batch.safetensors"))
        different = len(batch.prompt.masked_fill(~batch.prompt_mask, -1).unique(dim=0))
        repeated = f" ({different:,} different)" if different < len(batch) else ""
        stage.detail = f"{drawn['k']} for each of {len(batch):,} {split} prompts{repeated}"
        if batch.scores is not None:
            stage.detail += f", mean reward {float(batch.scores.mean()):+.2f}"
    return batch
