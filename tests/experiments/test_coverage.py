"""The study of coverage in small: intervals hold the truth, tests reject a true null no more often than they say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scipy import stats

from dpo_lab.data.tokenizers.word import WordTokenizer
from dpo_lab.models.policies import Policy
from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.preferences.rewards.lexicon import LexiconReward

FOLDER = Path(__file__).parents[2] / "experiments" / "coverage"
WORDS = "abcdefgh"


@pytest.fixture(scope="module")
def study() -> dict[str, ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        return {name: importlib.import_module(name) for name in ("coverage", "rejections", "truths")}
    finally:
        sys.path.remove(str(FOLDER))


def moved(base: Policy, size: float, seed: int) -> Policy:
    """The base with noise on its weights: another policy, for nothing."""
    module, generator = base.copy(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight += size * torch.randn(weight.shape, generator=generator)
    return Policy(base.spec, module, base.tokenizer)


@pytest.fixture(scope="module")
def world(study: dict[str, ModuleType]) -> Any:
    """Untrained policies near an untrained base."""
    truths = study["truths"]
    torch.manual_seed(0)
    prompts = truths.SyntheticSource(num_sentences=3000).load().train_prompts
    tokenizer = WordTokenizer().train(prompts)
    spec = TransformerSpec(dim=16, depth=1, heads=2, context=16)
    base = Policy(spec, spec.build(tokenizer.vocab_size), tokenizer)
    policies = {beta: [moved(base, 0.1 / beta, seed) for seed in range(3)] for beta in truths.BETAS}
    world = truths.Trained(
        LexiconReward(values=dict(zip(WORDS, (-1.0, -0.7, -0.4, -0.1, 0.1, 0.4, 0.7, 1.0), strict=True))),
        base,
        policies,
        prompts,
        5,
    )
    rows = list(truths.coverage(world, 12, prompts=20, candidates=30, truth=1000, sizes=(1, 3)))
    for n in (1, 3):
        held, times = (sum(row[name] for row in rows if row["seeds"] == n) for name in ("held", "times"))
        assert times > 140
        assert held >= 0.87 * times, (n, held, times)  # numbers of one evaluation go together: the share has an error of 3 %
    columns = study["coverage"].table(rows)
    assert len(columns) == len(rows)


def test_no_test_rejects_a_true_null_more_often_than_it_says(study: dict[str, ModuleType]) -> None:
    rejections, times = study["rejections"], 100
    rows = [row for row in rejections.rejections(times, (3, 8, 13, 30)) if row["kind"] != rejections.LOPSIDED]
    rows += rejections.families(20, (12, 13))
    for row in rows:
        most = stats.binom.ppf(0.9999, row["times"], study["coverage"].level_of(row["level"]))
        assert row["rejected"] <= most, row
    assert sum(row["rejected"] for row in rows) > 0
