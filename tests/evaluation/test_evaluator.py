"""An evaluation's passes are bounded as training's are, and their bounds change nothing but rounding."""

from __future__ import annotations

import pytest
import torch
from batches import gappy_pairs
from strategies import tiny_transformer
from torch import Tensor

from dpo_lab.data.tokenizers import TOKENIZERS
from dpo_lab.evaluation.evaluator import Evaluator
from dpo_lab.models.copies import freeze
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.logps import Scoring


def evaluator(samples: CandidateBatch, size: int | None, tokens: int | None) -> Evaluator:
    tokenizer = TOKENIZERS["word"]().train(["a b"])
    scoring = Scoring(micro_batch_size=size, micro_batch_tokens=tokens)
    return Evaluator(tokenizer, freeze(tiny_transformer(seed=1).float()), samples, None, None, 3, 0, scoring)


def single() -> CandidateBatch:
    pairs = gappy_pairs()
    return CandidateBatch(
        pairs.prompt, pairs.prompt_mask, pairs.completions[:1, :, :3], pairs.mask[:1, :, :3], pairs.ids, pairs.confidence
    )


@pytest.mark.parametrize(("size", "tokens"), [(1, None), (2, None), (None, 8), (None, 1)])
def test_samples_are_scored_in_passes_of_the_size_asked_for(size: int | None, tokens: int | None) -> None:
    policy, samples, read = tiny_transformer(seed=0).float(), single(), list[Tensor]()
    whole = evaluator(samples, None, None)._logps(policy, samples)
    policy.net.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    found = evaluator(samples, size, tokens)._logps(policy, samples)
    for ours, theirs in ((found.policy, whole.policy), (found.reference, whole.reference)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # float32: other shapes of products round otherwise
    assert all(len(rows) <= (size or 99) for rows in read)
    assert all(rows.numel() <= (tokens or 99) or len(rows) == 1 for rows in read)
    assert len(read) > 1


@pytest.mark.parametrize(("size", "tokens"), [(None, None), (2, None), (None, 8)])
def test_no_pass_is_larger_than_the_rehearsed_one(size: int | None, tokens: int | None) -> None:
    policy, samples, read = tiny_transformer(seed=0).float(), single(), list[int]()
    policy.net.register_forward_pre_hook(lambda module, given: read.append(given[0].numel()))
    evaluator(samples, size, tokens).rehearse(policy)
    (rehearsed,) = read
    read.clear()
    evaluator(samples, size, tokens)._logps(policy, samples)
    assert max(read) <= rehearsed
