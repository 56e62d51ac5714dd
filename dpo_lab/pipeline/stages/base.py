"""The base policy: where preference training starts from."""

from __future__ import annotations

import json
from pathlib import Path

from dpo_lab.artifacts.digests import json_value
from dpo_lab.artifacts.fingerprint import HOUSEKEEPING, code_of, flat
from dpo_lab.artifacts.store import Key
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.models.memory_estimate import describe_size
from dpo_lab.models.policies import Policy, load_policy, starting_policy
from dpo_lab.pipeline.stages.fit_base import fit_base
from dpo_lab.pipeline.stages.text import FORMAT, Text


def loaded_base(text: Text) -> tuple[Policy, str]:
    """The policy that `model` names, and a key that stands for its weights."""
    study = text.study
    with text.context.stage("base", f"from {study.model.weights()}") as stage:
        loaded = starting_policy(study.model)
        assert loaded is not None, "the model has weights"
        policy, key = loaded
        stage.reused, stage.detail = True, f"{study.model.weights()}, {describe_size(policy.module)}"
        policy.module.to(study.compute.torch_device)
    return policy, key


def fitted_base(text: Text, tokenizer: Tokenizer, tokenizer_key: Key) -> tuple[Policy, str]:
    """A policy fitted to the text, and its artifact's key."""
    study, fit = text.study, text.study.base
    settings = {name: value for name, value in flat(json_value(fit)) if f"base.{name}" not in HOUSEKEEPING}
    determined_by = {"tokenizer": tokenizer_key, "model": study.model, "fit": settings, "format": FORMAT}
    determined_by |= {"text": text.key, "precision": study.compute.precision}
    workers = study.compute.num_workers(fit.trainer.dropout)
    rounding = {**study.compute.rounding(), "workers": workers, "head_portion": study.compute.head_portion}

    def build(directory: Path) -> None:
        fit_base(text.context, text.corpus, tokenizer, directory)

    code = code_of(fit_base.__module__) | text.code(study.model, fit)
    with text.context.stage("base", study.model.name) as stage:
        path, key = text.artifact(stage, "base", determined_by, build, code, rounding)
        policy = load_policy(path)
        last = json.loads((path / "fit.json").read_text())
        stage.detail = f"{last['nats_per_token']:.2f} nats a token on its last texts, {describe_size(policy.module)}"
    policy.module.to(study.compute.torch_device)
    return policy, key
