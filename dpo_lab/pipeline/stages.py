"""The chain before preference training: text, tokenizer, base policy, rewards, candidates, reference scores.

Each link is an artifact under a key made of everything that determines it, so a change recomputes only what follows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpo_lab.artifacts.digests import digest, json_value
from dpo_lab.artifacts.fingerprint import HOUSEKEEPING, Code, code_of, component_classes, flat
from dpo_lab.artifacts.store import Key
from dpo_lab.data import Corpus
from dpo_lab.data.base import share_of
from dpo_lab.data.messages import Prompt
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.evaluation.evaluator import Evaluator
from dpo_lab.models.memory_estimate import describe_size
from dpo_lab.models.policies import Policy, load_policy, starting_policy
from dpo_lab.pipeline.base_policy import fit_base
from dpo_lab.pipeline.context import Context
from dpo_lab.preferences.base import SampledSource, noun
from dpo_lab.preferences.batches import padded
from dpo_lab.preferences.given import GivenCandidates
from dpo_lab.preferences.rewards import Scorer
from dpo_lab.preferences.sampling import draw
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import Layout
from dpo_lab.scoring.logps import Scoring
from dpo_lab.seeding import number, permutation
from dpo_lab.tracking.console import Stage

NOTES = "notes.json"
FORMAT = 1
"""Raised when a stage computes something else from the same settings: old artifacts are then left alone."""


@dataclass
class Stages:
    """The stages of one study, each computed when first asked for."""

    context: Context
    scorer_keys: list[Key] = field(default_factory=list)
    """Of the training scorer and the gold scorer, if they were fitted."""

    @cached_property
    def data_key(self) -> dict[str, Any]:
        data = self.context.study.data
        return {"format": FORMAT, "data": data, "files": data.fingerprint()}

    @cached_property
    def corpus(self) -> Corpus:
        """Read only when a stage after it must be built: a second run of the same study does not."""
        corpus = self.context.study.data.load()
        for note in [*corpus.notes, ", ".join(f"{count:,} {what}" for what, count in corpus.counts.items())]:
            self.context.console.note(f"  {note}")
        return corpus

    @cached_property
    def _tokenizer(self) -> tuple[Tokenizer, Key]:
        spec = self.context.study.tokenizer

        def build(directory: Path) -> None:
            spec.train(chain(self.corpus.text, self.corpus.fragments)).save(directory)

        with self.context.stage("tokenizer", spec.name) as stage:
            path, key = self._artifact(stage, "tokenizer", {"text": self.data_key, "tokenizer": spec}, build, self._code(spec))
            tokenizer = Tokenizer.load(path)
            stage.detail = f"{spec.name}, {tokenizer.vocab_size:,} tokens"
        return tokenizer, key

    @cached_property
    def base(self) -> tuple[Policy, str]:
        """The policy that preference training starts from, and a key that stands for its weights."""
        study, fit = self.context.study, self.context.study.base
        weights = study.model.weights()
        if weights is not None:
            with self.context.stage("base", f"from {weights}") as stage:
                found = starting_policy(study.model)
                assert found is not None
                stage.reused, stage.detail = True, f"{weights}, {describe_size(found[0].module)}"
                found[0].module.to(study.compute.torch_device)
                return found
        tokenizer, tokenizer_key = self._tokenizer
        settings = {name: value for name, value in flat(json_value(fit)) if f"base.{name}" not in HOUSEKEEPING}
        determined_by = {"tokenizer": tokenizer_key, "model": study.model, "fit": settings, "format": FORMAT}
        determined_by |= {"text": self.data_key, "precision": study.compute.precision}
        workers = study.compute.num_workers(fit.trainer.dropout)
        rounding = {**study.compute.rounding(), "workers": workers, "head_portion": study.compute.head_portion}

        def build(directory: Path) -> None:
            fit_base(self.context, self.corpus, tokenizer, directory)

        code = code_of(fit_base.__module__) | self._code(study.model, fit)
        with self.context.stage("base", study.model.name) as stage:
            path, key = self._artifact(stage, "base", determined_by, build, code, rounding)
            policy = load_policy(path)
            fitted = json.loads((path / "fit.json").read_text())
            stage.detail = f"{fitted['nats_per_token']:.2f} nats a token on its last texts, {describe_size(policy.module)}"
        policy.module.to(study.compute.torch_device)
        return policy, key

    @cached_property
    def scorers(self) -> tuple[Scorer | None, Scorer | None]:
        """The training scorer, fitted on one half of the labelled documents, and the gold scorer, fitted on the other."""
        spec = self.context.study.reward
        if not spec.needs_labels:
            return spec.load(Path()), spec.load(Path())
        code, found = self._code(spec), []
        for half, title in enumerate(("proxy reward", "gold reward")):
            with self.context.stage(title, f"{spec.name}, fitted on one half of the labels") as stage:

                def build(directory: Path, half: int = half) -> None:
                    labelled = self.corpus.labelled
                    spec.fit([row for row in labelled if (share_of(row[0], "reward") < 0.5) == (half == 0)], directory)

                determined_by = {"text": self.data_key, "reward": spec, "files": spec.fingerprint(), "half": half}
                path, key = self._artifact(stage, "reward", determined_by, build, code)
                self.scorer_keys.append(key)
                found.append(spec.load(path))
        return found[0], found[1]

    def samples(self, spec: SampledSource) -> CandidateBatch:
        """Labelled samples of the base policy for training prompts, k of each."""
        drawn = {"num_prompts": spec.num_prompts, "k": spec.samples_per_prompt, "temperature": spec.temperature}
        return self._samples("candidates", "train", {**drawn, "max_tokens": spec.max_tokens, "seed": spec.seed})

    @cached_property
    def reference_samples(self) -> CandidateBatch:
        """Samples of the base policy for held-out prompts: what the policy is compared with, and best-of-n chooses from."""
        study = self.context.study
        several = max(study.evaluation.sizes) if study.reward.name != "none" else 1  # without a reward no n is best
        drawn = {"num_prompts": study.evaluation.num_prompts, "k": several, "temperature": 1.0}
        drawn |= {"max_tokens": study.candidates.max_tokens, "seed": study.evaluation.seed}
        return self._samples("reference_samples", "eval", drawn)

    def pairs(self) -> tuple[CandidateBatch, CandidateBatch | None, CandidateBatch | None]:
        """Pairs to train on, held-out pairs (None if there are none), and the labelled samples they come from, if any."""
        spec, console = self.context.study.candidates, self.context.console
        if isinstance(spec, SampledSource):
            samples = self.samples(spec)
            if samples.scores is None:
                raise ValueError(f"candidates={spec.name} needs a reward to label the samples: choose one with reward=...")
            train, counts = spec.pairs(samples)
            first = torch.arange(min(self.context.study.evaluation.num_prompts_during, len(self.reference_samples)))
            held_out, _ = spec.pairs(self.reference_samples.select(first), like=samples)
            if not len(train):
                raise ValueError("every prompt's samples have equal rewards, so no pair can be made; check the reward")
            console.note("  " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
            return train, held_out if len(held_out) else None, samples
        assert isinstance(spec, GivenCandidates)
        return *self._given(spec), None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own, or else one that is fitted to the text."""
        return self._tokenizer[0] if self.context.study.model.weights() is None else self.base[0].tokenizer

    def _given(self, spec: GivenCandidates) -> tuple[CandidateBatch, CandidateBatch]:
        """The data's own candidates as tokens, to train on and held out. What is odd about them is said each time."""
        tokenizer, console = self.tokenizer, self.context.console

        def build(directory: Path) -> None:
            if not self.corpus.train:
                raise ValueError(
                    f"data={self.context.study.data.name} has no labelled pairs: choose candidates=sampled and a reward"
                )
            notes = []
            for title, rows in (("train", self.corpus.train), ("held-out", self.corpus.eval)):
                counts = spec.write(rows, tokenizer, directory / f"{title}.safetensors")
                effects = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
                notes.append(f"{title}: {len(rows):,} {noun(len(next(iter(rows)).completions))}{effects}")
                console.note(f"  {notes[-1]}")
            (directory / NOTES).write_text(json.dumps([*self.corpus.notes, *notes]))

        determined_by = {"text": self.data_key, "tokenizer": digest(tokenizer.fingerprint()), "candidates": spec}
        with self.context.stage("pairs", spec.name) as stage:
            code = self._code(spec)
            path, _ = self._artifact(stage, "pairs", {**determined_by, "format": FORMAT}, build, code)
            train, held_out = (
                CandidateBatch.from_tensors(load_file(path / f"{title}.safetensors")) for title in ("train", "held-out")
            )
            stage.detail = f"{len(train):,} to train on, {len(held_out):,} held out"
            if "corpus" not in vars(self):  # else they were said when it was read
                for note in json.loads((path / NOTES).read_text()):
                    console.note(f"  {note}")
        return train, held_out

    def evaluator(self, reference: nn.Module) -> Evaluator:
        """The evaluator of policies that start from `reference`, on the held-out prompts."""
        study = self.context.study
        proxy, gold = self.scorers
        return Evaluator(
            tokenizer=self.base[0].tokenizer,
            reference=reference,
            reference_samples=self.reference_samples,
            proxy=proxy,
            gold=gold,
            max_tokens=study.candidates.max_tokens,
            seed=number(study.evaluation.seed, "evaluation of a run", study.seed),
            scoring=Scoring((Layout.rows,), study.compute.head_portion, *study.trainer.micro_batch_limits),  # nothing to share
        )

    def _samples(self, kind: str, split: str, drawn: Mapping[str, Any]) -> CandidateBatch:
        policy, key = self.base
        proxy, _ = self.scorers
        study = self.context.study

        def build(directory: Path) -> None:
            prompts = self._prompts(split, drawn["num_prompts"], drawn["seed"])
            starts = padded([policy.tokenizer.encode_prompt(prompt) for prompt in prompts])
            made = draw(
                policy.module,
                policy.tokenizer,
                proxy,
                *starts,
                drawn["k"],
                drawn["max_tokens"],
                temperature=drawn["temperature"],
                seed=drawn["seed"],
                purpose=kind,
            )
            save_file(_contiguous(made), directory / "batch.safetensors")

        with self.context.stage(
            kind.replace("_", " "), f"{drawn['k']} for each of {drawn['num_prompts']:,} {split} prompts"
        ) as stage:
            reward = {"reward": study.reward, "files": study.reward.fingerprint(), "scorer": self.scorer_keys[:1]}
            determined_by = {"base": key, "text": self.data_key, **reward, "split": split, **drawn}
            networks = {type(module) for module in policy.module.modules()}
            code = code_of(draw.__module__, permutation.__module__, *networks, Stages._prompts) | self._code(study.reward)
            path, _ = self._artifact(stage, kind, {**determined_by, "format": FORMAT}, build, code, study.compute.rounding())
            batch = CandidateBatch.from_tensors(load_file(path / "batch.safetensors"))
            different = len(batch.prompt.masked_fill(~batch.prompt_mask, -1).unique(dim=0))
            repeated = f" ({different:,} different)" if different < len(batch) else ""
            stage.detail = f"{drawn['k']} for each of {len(batch):,} {split} prompts{repeated}"
            if batch.scores is not None:
                stage.detail += f", mean reward {float(batch.scores.mean()):+.2f}"
        return batch

    def _prompts(self, split: str, count: int, seed: int) -> list[Prompt]:
        """So many prompts. Raises ValueError where there are too few to train on; held-out ones may be fewer."""
        prompts = self.corpus.train_prompts if split == "train" else self.corpus.eval_prompts
        order = permutation(len(prompts), seed, "prompts", split).tolist()
        if len(prompts) < count and split == "train":
            raise ValueError(f"candidates.num_prompts={count}, but the data has only {len(prompts)} training prompts")
        if len(prompts) < count:
            self.context.console.note(
                f"  evaluated on all {len(prompts)} held-out prompts, fewer than evaluation.num_prompts={count}"
            )
        place = {row: i for i, row in enumerate(order[:count])}
        found = ((place[row], prompt) for row, prompt in enumerate(prompts) if row in place)
        return [prompt for _, prompt in sorted(found, key=lambda item: item[0])]

    def _code(self, *parts: object) -> Code:
        """The code behind the data and some of the study's components."""
        return code_of(*{each for part in (self.context.study.data, *parts) for each in component_classes(part)})

    def _artifact(
        self,
        stage: Stage,
        kind: str,
        determined_by: Mapping[str, Any],
        build: Callable[[Path], object],
        code: Code,
        rounding: Mapping[str, Any] | None = None,
    ) -> tuple[Path, Key]:
        self.context.follow_artifacts(stage)
        return self.context.store.get(kind, determined_by, build, code | code_of(build), rounding)


def _contiguous(batch: CandidateBatch) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in batch.tensors().items()}
