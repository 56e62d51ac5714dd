"""The base policy: maximum likelihood of the study's text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dpo_lab.data import Corpus
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.losses.sft import SFTLoss
from dpo_lab.models.policies import Policy
from dpo_lab.pipeline.context import Context
from dpo_lab.preferences.batches import from_rows
from dpo_lab.records import Aggregate
from dpo_lab.scoring.logps import Scoring
from dpo_lab.seeding import number, seed_torch
from dpo_lab.training.result import Status
from dpo_lab.training.sampler import batch_rows
from dpo_lab.training.trainer import Hooks, Trainer


def fit_base(context: Context, corpus: Corpus, tokenizer: Tokenizer, directory: Path) -> None:
    """Fit the study's model to the corpus and write a policy directory, with the last metrics in fit.json.

    Every text is a completion of the start token alone. Raises ValueError where there is no text, or where fitting diverges.
    """
    study, fit = context.study, context.study.base
    whole, broken = (tokenizer.encode_many(list(texts)) for texts in (corpus.text, corpus.fragments))
    rows = [[row[: fit.max_tokens]] for row in ([*ids, tokenizer.end] for ids in whole)]
    rows += [[row[: fit.max_tokens]] for row in broken if row]
    if not rows:
        raise ValueError("the data has no text to fit a base policy on")
    warning = fit.trainer.check_rows(len(rows), "texts", "base.trainer")
    if whole and fit.whole_at_end:
        warning = fit.trainer.check_rows(len(whole), "whole texts", "base.trainer") or warning
    if warning:
        context.console.warn(warning)
    seed_torch(fit.seed, "weights")
    module = study.model.build(tokenizer.vocab_size).to(study.compute.torch_device)
    steps, batch_size = fit.trainer.num_steps, fit.trainer.batch_size
    switch = round(steps * (1 - fit.whole_at_end)) if whole else steps

    lengths = torch.tensor([len(row) for (row,) in rows])
    seed = number(fit.seed, "fit of the base")

    def batch_of(step: int) -> Tensor:
        num_rows = len(rows) if step < switch else len(whole)
        return batch_rows(seed, step, batch_size, num_rows, lengths, fit.trainer.length_window)

    last: dict[str, float] = {}
    with context.console.progress(steps, "base") as bar:

        def log(step: int, metrics: Mapping[str, float]) -> None:
            last.update(metrics)
            bar.update(step, {"loss": metrics["loss"], "pairs_per_s": metrics["pairs_per_s"]})

        result = Trainer(
            policy=module,
            loss=SFTLoss(aggregate=Aggregate.sum),
            reference=None,
            data=from_rows([tokenizer.encode_prompt("")] * len(rows), rows, torch.ones(len(rows))),
            optimizers=fit.optimizer.build(module),
            schedule=fit.schedule,
            settings=fit.trainer,
            compute=study.compute,
            seed=seed,
            hooks=Hooks(log=log, warn=context.console.warn),
            rows=batch_of,
            scoring=Scoring(head_portion=study.compute.head_portion),
        ).fit()
    if result.status is Status.diverged:
        raise ValueError(f"fitting the base policy failed: {result.reason[:200]}; lower base.optimizer.lr")
    Policy(study.model, module, tokenizer).write_files(directory)
    last["nats_per_token"] = last["loss"] / last["length/chosen"]
    (directory / "fit.json").write_text(json.dumps(last, indent=1))
