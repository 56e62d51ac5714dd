"""How often the intervals that `compare` prints hold the truth, where the language is known and the truth can be sampled."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_lab.compare.groups import Group
from dpo_lab.compare.intervals import Estimate
from dpo_lab.compare.runs import FinishedRun
from dpo_lab.data.synthetic import SyntheticSource
from dpo_lab.evaluation.evaluator import Evaluator
from dpo_lab.models.copies import freeze
from dpo_lab.models.policies import Policy, load_policy
from dpo_lab.preferences.batches import padded
from dpo_lab.preferences.rewards.lexicon import LexiconReward
from dpo_lab.preferences.sampling import draw
from dpo_lab.records import CandidateBatch
from dpo_lab.seeding import number

METRICS = ("reward/policy", "kl", "ideal_share", "positive/policy", "win_rate")
BETAS = (0.8, 1.6)
SEEDS = (1, 3, 5)
TRUTH = 15_000
"""Prompts, with one sample of each policy and 8 of the reference: 240,000 samples of the policies of a beta."""
WORDS = [
    *("+experiment=quickstart", "model.dim=32", "model.depth=1", "base.trainer.max_steps=150", "compute.threads=1"),
    *(
        "candidates.num_prompts=300",
        "trainer.max_steps=40",
        "trainer.batch_size=16",
        "trainer.log_every=40",
        "optimizer.lr=0.003",
    ),
    *("trainer.eval_every=null", "evaluation.num_prompts=32", "evaluation.num_prompts_during=16"),
]


@dataclass
class Trained:
    """A reward and a base policy, for each beta the policies of several seeds, and prompts of their language."""

    reward: LexiconReward
    base: Policy
    policies: dict[float, list[Policy]]
    prompts: list[str]
    max_tokens: int

    def reference_samples(self, prompts: list[str], seed: int, purpose: str) -> CandidateBatch:
        """8 of each."""
        starts = padded([self.base.tokenizer.encode_prompt(prompt) for prompt in prompts])
        scorer = self.reward.load(Path())
        return draw(self.base.module, self.base.tokenizer, scorer, *starts, 8, self.max_tokens, seed=seed, purpose=purpose)

    def evaluator(self, samples: CandidateBatch, evaluation: int, run: int) -> Evaluator:
        """As a run with these seeds has it."""
        scorer, seed = self.reward.load(Path()), number(evaluation, "evaluation of a run", run)
        return Evaluator(self.base.tokenizer, self.base.module, samples, scorer, scorer, self.max_tokens, seed)


def trained(folder: Path, seeds: int) -> Trained:
    """Trains what is not there yet."""
    betas = ",".join(map(str, BETAS))
    words = [*WORDS, f"seed=range({seeds})", f"loss.beta={betas}", f"runs={folder / 'runs'}", f"store={folder / 'store'}"]
    subprocess.run([sys.executable, "-m", "dpo_lab", "-m", *words], check=True, stdout=subprocess.DEVNULL)
    found: dict[float, dict[int, Path]] = {beta: {} for beta in BETAS}
    facts: dict[str, Any] = {}
    for file in sorted((folder / "runs").rglob("run.json")):
        facts = json.loads(file.read_text())
        beta = float(next(word for word in facts["overrides"] if word.startswith("loss.beta=")).partition("=")[2])
        found[beta][facts["seed"]] = file.parent
    base = load_policy(next((folder / "store" / "base").glob("[!.]*")))
    base.module = freeze(base.module)
    values = dict(zip("abcdefgh", (-1.0, -0.7, -0.4, -0.1, 0.1, 0.4, 0.7, 1.0), strict=True))
    policies = {beta: [load_policy(paths[seed]) for seed in range(seeds)] for beta, paths in found.items()}
    prompts = SyntheticSource(num_sentences=400_000).load().train_prompts
    return Trained(LexiconReward(values=values), base, policies, prompts, max_tokens=9)


def evaluated(evaluator: Evaluator, policy: Policy, seed: int, beta: float, more: CandidateBatch) -> FinishedRun:
    """What `compare` would read of a run that ended with this policy."""
    found = evaluator.evaluate(policy.module, len(evaluator.reference_samples))
    settings = {"seed": seed, "loss.beta": beta, "evaluation.seed": 0}
    run = FinishedRun(Path(), settings, {}, {**found.metrics, **evaluator.ideal_frontier(found, more)})
    run.samples = found.rows
    return run


def truths(world: Trained, count: int, more: int) -> dict[tuple[float, int, str], float]:
    """Of each beta, seed and metric."""
    samples = world.reference_samples(world.prompts[:count], 0, "truth")
    others = world.reference_samples(world.prompts[count : count + more], 0, "truth of the frontier")
    found = {}
    for beta, policies in world.policies.items():
        for seed, policy in enumerate(policies):
            run = evaluated(world.evaluator(samples, -1, seed), policy, seed, beta, others)
            found |= {(beta, seed, metric): run.summary[metric] for metric in METRICS}
    return found


def coverage(
    world: Trained,
    evaluations: int,
    prompts: int,
    candidates: int = 300,
    truth: int = TRUTH,
    sizes: Sequence[int] = SEEDS,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """A row for each metric, number of seeds and kind of interval: how often of so many evaluations it held the truth.

    Each evaluation has prompts, reference samples and candidates of its own, and as many of the policies drawn as runs.
    """
    true = truths(world, truth, candidates)
    counts: dict[tuple[str, str, int], list[bool]] = {}
    choose, start, size = random.Random(seed), truth + candidates, prompts + candidates
    for evaluation in range(evaluations):
        own = world.prompts[start + evaluation * size :][:size]
        assert len(own) == size, "there are not so many prompts"
        samples = world.reference_samples(own[:prompts], evaluation, "reference_samples")
        more = world.reference_samples(own[prompts:], evaluation, "candidates")
        chosen = choose.sample(range(len(world.policies[BETAS[0]])), max(sizes))
        runs = {
            beta: [evaluated(world.evaluator(samples, evaluation, s), policies[s], s, beta, more) for s in chosen]
            for beta, policies in world.policies.items()
        }
        for n in sizes:
            groups = {beta: Group({"loss.beta": beta}, str(beta), some[:n]) for beta, some in runs.items()}
            for key, holds in _held(groups, true, chosen[:n] if n == 1 else None).items():
                counts.setdefault((*key, n), []).append(holds)
    for (metric, what, n), found in counts.items():
        yield {"metric": metric, "what": what, "seeds": n, "times": len(found), "held": sum(found)}


def _held(
    groups: dict[float, Group], true: dict[tuple[float, int, str], float], only: list[int] | None
) -> dict[tuple[str, str], bool]:
    """Whether each interval holds the mean over all policies of its beta: of one run, that run's own truth."""

    def truth(beta: float, metric: str) -> float:
        values = [value for (b, seed, m), value in true.items() if (b, m) == (beta, metric) and (only is None or seed in only)]
        return sum(values) / len(values)

    found = {}
    first, second = groups.values()
    for metric in METRICS:
        for beta, group in groups.items():
            estimate = group.estimate(metric)
            if estimate.n == len(group.runs):
                found[metric, f"beta {beta:g}"] = _holds(estimate, truth(beta, metric))
        difference = first.difference(second, metric)[2]
        if difference.n == len(first.runs):
            found[metric, "paired difference"] = _holds(difference, truth(BETAS[0], metric) - truth(BETAS[1], metric))
    return found


def _holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high
