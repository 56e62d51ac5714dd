"""Scores are log-probabilities of exactly the completion's tokens, however they are laid out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from batches import comparison
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    VOCAB,
    ForwardOnly,
    RecurrentTable,
    Texts,
    batches,
    layouts,
    models,
    oracle_score,
    texts,
    tiny_transformer,
)
from torch import Tensor, nn

from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.logps import SplitsHead, evaluating, logps_of_logits, score, token_logps

Scorer = Callable[[nn.Module, CandidateBatch], Tensor]
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64: the padded and the bare batch differ in the order of additions only
model_based = settings(max_examples=12)
END = 2


HARD = {
    "padding on the right": comparison([[3, 1], [4]], [[[1, 4, END], [3, END]], [[4, 4], [1]]]),
    "padding on the left": comparison([[3, 1], [4]], [[[1, 4, END], [3, END]], [[4, 4], [1]]], left=True),
    "pad is the end token": comparison([[3, 1], [4]], [[[1, 4, END], [3, END]], [[4, END], [END]]], pad=END),
    "one token": comparison([[1, 3]], [[[4]], [[3]]]),
    "one token after one": comparison([[1], [3]], [[[4], [1]], [[3], [END]]]),
    "no padding": comparison([[1, 3], [3, 4]], [[[4, 3, END], [1, 1, END]], [[3, 4, END], [4, 1, END]]]),
    "an empty completion": comparison([[1, 3]], [[[4, END]], [[]]]),
}


def no_shift(model: nn.Module, batch: CandidateBatch) -> Tensor:
    """The first historical mistake: token t scored with logits that have seen it."""
    k, b, m = batch.completions.shape
    sequence = torch.cat((batch.prompt.expand(k, b, -1), batch.completions), dim=2).flatten(0, 1)
    logps = model(sequence).log_softmax(dim=-1).gather(2, sequence[:, :, None])[:, :, 0]
    return logps[:, -m:].reshape(k, b, m).where(batch.mask, 0.0)


def mask_sliced_at_the_wrong_end(model: nn.Module, batch: CandidateBatch) -> Tensor:
    """The second: the mask of tokens 0..n-2 laid over the scores of tokens 1..n-1."""
    k, b, m = batch.completions.shape
    sequence = torch.cat((batch.prompt.expand(k, b, -1), batch.completions), dim=2).flatten(0, 1)
    mask = torch.cat((torch.zeros_like(batch.prompt_mask).expand(k, b, -1), batch.mask), dim=2).flatten(0, 1)
    logps = model(sequence[:, :-1]).log_softmax(dim=-1).gather(2, sequence[:, 1:, None])[:, :, 0]
    return logps.where(mask[:, :-1], 0.0)[:, -m:].reshape(k, b, m)


def agrees(scorer: Scorer, batch: CandidateBatch, model: nn.Module) -> bool:
    """Sums are compared, so that a mistake cannot hide behind the index it writes to."""
    return torch.allclose(scorer(model, batch).sum(dim=2), oracle_score(model, batch).sum(dim=2), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("model", [RecurrentTable(), tiny_transformer(), ForwardOnly(tiny_transformer(tie_embedding=True))])
def test_every_completion_token_and_no_other_is_scored(case: str, model: nn.Module) -> None:
    batch = HARD[case]
    found = score(model, batch)
    torch.testing.assert_close(found, oracle_score(model, batch), rtol=1e-10, atol=1e-10)
    assert (found != 0).equal(batch.mask)


@pytest.mark.parametrize("mutant", [no_shift, mask_sliced_at_the_wrong_end])
@pytest.mark.parametrize("case", ["padding on the right", "pad is the end token", "one token", "no padding"])
def test_the_historical_mistakes_are_rejected(mutant: Scorer, case: str) -> None:
    model = RecurrentTable()
    assert agrees(score, HARD[case], model)
    assert not agrees(mutant, HARD[case], model)


@model_based
@given(models(), batches())
def test_scores_are_those_of_the_oracle(model: nn.Module, batch: CandidateBatch) -> None:
    torch.testing.assert_close(score(model, batch), oracle_score(model, batch), rtol=1e-10, atol=1e-10, check_dtype=False)


@given(models(), st.data())
def test_padding_never_changes_a_score(model: nn.Module, data: st.DataObject) -> None:
    content = data.draw(texts())
    one, other = data.draw(layouts(content)), data.draw(layouts(content))
    first, second = score(model, one), score(model, other)
    torch.testing.assert_close(first[one.mask], second[other.mask], **EXACT)
    assert not first[~one.mask].any()


@pytest.mark.parametrize("side", ["left", "right", "anywhere", "tight"])
def test_a_row_is_scored_alike_alone_and_in_any_company(side: str) -> None:
    model = tiny_transformer()

    @model_based
    @given(st.data())
    def check(data: st.DataObject) -> None:
        content = data.draw(texts(k=2, shortest=1))
        together = data.draw(layouts(content, side))
        row = data.draw(st.integers(0, len(together) - 1))
        alone = data.draw(layouts(Texts([content.prompts[row]], [[c[row]] for c in content.completions]), "tight"))
        mask = together.mask[:, row]
        torch.testing.assert_close(score(model, together)[:, row][mask], score(model, alone)[:, 0][alone.mask[:, 0]], **EXACT)

    check()


@given(models(), st.data())
def test_selected_rows_keep_their_scores(model: nn.Module, data: st.DataObject) -> None:
    batch = data.draw(batches())
    batch = dataclasses.replace(batch, reference=score(model, batch).detach())
    rows = torch.tensor(data.draw(st.permutations(range(len(batch))))[: data.draw(st.integers(1, len(batch)))])
    picked = batch.select(rows)
    assert picked.reference is not None
    torch.testing.assert_close(score(model, picked), picked.reference, **EXACT)


@pytest.mark.parametrize("model", [RecurrentTable(vocab=3), tiny_transformer(vocab=3)])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_probabilities_of_all_completions_of_a_length_sum_to_1(model: nn.Module, length: int) -> None:
    every = [[list(tokens)] for tokens in product(range(3), repeat=length)]
    total = score(model, comparison([[1, 2]], every)).sum(dim=2).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), **EXACT)


@model_based
@given(models(), texts(k=1, shortest=1))
def test_a_text_scores_as_its_beginning_plus_the_rest_given_it(model: nn.Module, content: Texts) -> None:
    prompts, (completions,) = content.prompts, content.completions
    whole = score(model, comparison([p[:1] for p in prompts], [[p[1:] + c for p, c in zip(prompts, completions, strict=True)]]))
    rest = score(model, comparison(prompts, [completions]))
    beginnings = [p[1:] for p in prompts]
    expected = rest.sum(dim=2)
    if any(beginnings):
        expected = expected + score(model, comparison([p[:1] for p in prompts], [beginnings])).sum(dim=2)
    torch.testing.assert_close(whole.sum(dim=2), expected, **EXACT)


class Shifted(nn.Module):
    """The model with a constant of each position added to all its logits, and those logits kept."""

    def __init__(self, model: nn.Module, size: float = 0.0) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.logits = torch.empty(0)

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.model(tokens)
        self.logits = logits + self.size * (1 + torch.arange(logits.shape[1], dtype=logits.dtype))[None, :, None]
        if self.logits.requires_grad:
            self.logits.retain_grad()
        return self.logits


@model_based
@given(models(), batches(), st.sampled_from([-30.0, 0.5, 7.0]))
def test_a_constant_on_the_logits_of_a_position_never_changes_a_score(
    model: nn.Module, batch: CandidateBatch, size: float
) -> None:
    # The constants reach some 300, whose spacing in float64 is 6e-14.
    torch.testing.assert_close(score(Shifted(model, size), batch), score(model, batch), rtol=1e-11, atol=1e-11)


@model_based
@given(models(), batches(shortest=1))
def test_only_positions_before_a_completion_token_get_a_gradient(model: nn.Module, batch: CandidateBatch) -> None:
    recorded = Shifted(model)
    score(recorded, batch).sum().backward()
    assert recorded.logits.grad is not None
    reached = recorded.logits.grad.abs().sum(dim=2) > 0
    k = batch.num_candidates
    lengths = batch.mask.sum(dim=2).flatten()
    starts = batch.prompt_mask.sum(dim=1).repeat(k) - 1
    at = torch.arange(reached.shape[1])[None]
    assert reached.equal((at >= starts[:, None]) & (at < (starts + lengths)[:, None]))


@pytest.mark.parametrize("model", [RecurrentTable(), tiny_transformer()])
@pytest.mark.parametrize("left", [False, True])
def test_the_embedding_of_padding_gets_exactly_no_gradient(model: nn.Module, left: bool) -> None:
    batch = comparison([[3, 1], [4]], [[[1, 4, END], [3, END]], [[4, 4], [1]]], pad=0, left=left)
    model.zero_grad()
    score(model, batch).sum().backward()
    embedding = model.embedding if isinstance(model, RecurrentTable) else model.net.token_emb.emb.weight
    assert embedding.grad is not None
    assert not embedding.grad[0].any()
    assert embedding.grad[[1, 3, 4]].any(dim=1).all()


@given(models(), st.data())
def test_changing_a_token_changes_no_earlier_term_and_no_other_candidate(model: nn.Module, data: st.DataObject) -> None:
    content = data.draw(texts(k=2, shortest=1))
    batch = data.draw(layouts(content))
    row = data.draw(st.integers(0, len(batch) - 1))
    real = batch.mask[1, row].nonzero()[:, 0].tolist()
    at = data.draw(st.sampled_from(real))
    changed = dataclasses.replace(batch, completions=batch.completions.clone())
    changed.completions[1, row, at] = (changed.completions[1, row, at] + data.draw(st.integers(1, VOCAB - 1))) % VOCAB
    before, after = score(model, batch), score(model, changed)
    later = torch.zeros_like(batch.mask)
    later[1, row, at:] = True
    assert before[~later].equal(after[~later])
    assert before[1, row, at] != after[1, row, at]


@given(st.integers(0, 3), st.booleans(), batches(shortest=1))
def test_the_split_head_gives_the_values_and_gradients_of_plain_logits(seed: int, tie: bool, batch: CandidateBatch) -> None:
    model = tiny_transformer(seed=seed, tie_embedding=tie)
    plain = ForwardOnly(model)
    assert isinstance(model, SplitsHead)
    assert not isinstance(plain, SplitsHead)
    parameters = list(model.parameters())
    results = []
    for route in (model, plain):
        scores = score(route, batch)
        weights = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape)
        results.append((scores, *torch.autograd.grad((weights * scores).sum(), parameters)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("split", [True, False], ids=["split head", "plain logits"])
def test_a_bfloat16_model_is_scored_in_float32(split: bool) -> None:
    half = tiny_transformer().bfloat16()
    batch = HARD["no padding"]
    found = score(half if split else ForwardOnly(half), batch)
    assert found.dtype == torch.float32
    expected = score(lambda_model(lambda tokens: half(tokens).double()), batch)
    # The logits are bfloat16 either way; only the log-softmax differs, and its rounding in bfloat16 would be 4e-3 of a nat.
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 if not split else 0.1)
    assert score(half.float(), batch).dtype == torch.float32
    assert score(half.double(), batch).dtype == torch.float64


def test_autocast_leaves_scores_in_float32() -> None:
    logits = RecurrentTable()
    model = lambda_model(lambda tokens: logits(tokens).bfloat16())
    batch = HARD["no padding"]
    bare = score(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = score(model, batch)
    assert found.dtype == torch.float32
    assert found.equal(bare)
    assert not found.equal(found.bfloat16().float())


def lambda_model(function: Callable[[Tensor], Tensor]) -> nn.Module:
    class Model(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return function(tokens)

    return Model()


@pytest.mark.parametrize("model", [RecurrentTable(), tiny_transformer()])
def test_an_empty_prompt_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="row 1 has an empty prompt"):
        score(model, comparison([[1], []], [[[2], [3]]]))


def test_a_batch_without_prompts_has_no_scores() -> None:
    none = torch.zeros(2, 0, 3)
    batch = CandidateBatch(
        prompt=torch.zeros(0, 2, dtype=torch.long),
        prompt_mask=torch.zeros(0, 2, dtype=torch.bool),
        completions=none.long(),
        mask=none.bool(),
        ids=torch.zeros(0, dtype=torch.long),
        confidence=torch.zeros(0),
    )
    assert score(RecurrentTable(), batch).shape == (2, 0, 3)


@pytest.mark.parametrize("model", [RecurrentTable(), tiny_transformer()])
@pytest.mark.parametrize("prompt", [[1], [1, 3]])
def test_completions_that_are_all_empty_score_0(model: nn.Module, prompt: list[int]) -> None:
    batch = comparison([prompt], [[[1]], [[2]]])
    batch.mask = torch.zeros_like(batch.mask)
    assert score(model, batch).equal(torch.zeros(2, 1, 1, dtype=torch.float64))


def test_what_exceeds_the_context_is_refused_and_what_fills_it_is_scored() -> None:
    model = tiny_transformer(context=4)
    full = comparison([[1, 3]], [[[4, 3, END]]])  # 5 tokens: 4 read, the last predicted
    torch.testing.assert_close(score(model, full), oracle_score(model, full), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="have 6 tokens, the model reads 4"):
        score(model, comparison([[1, 3, 4]], [[[4, 3, END]]]))


def test_padding_does_not_count_towards_the_context() -> None:
    model = tiny_transformer(context=4)
    batch = comparison([[1], [3, 4, 1]], [[[4, 3, 1, END], [END]]])  # 7 columns, 5 tokens a row at most
    torch.testing.assert_close(score(model, batch), oracle_score(model, batch), rtol=1e-10, atol=1e-10)


def test_a_token_that_is_absent_cannot_be_scored() -> None:
    present = torch.tensor([[True, False]])
    with pytest.raises(AssertionError, match="only be scored where it is present"):
        token_logps(RecurrentTable(), torch.tensor([[1, 2]]), present, ~present)


def test_evaluating_gives_every_module_its_own_mode_back() -> None:
    model = TransformerSpec(dim=16, depth=1, heads=2, dropout=0.5).build(VOCAB)
    for i, module in enumerate(model.modules()):
        module.training = i % 2 == 0
    before = [module.training for module in model.modules()]
    seen = []

    def fail_inside() -> None:
        with evaluating(model):
            seen.extend(module.training for module in model.modules())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert seen
    assert not any(seen)
    assert [module.training for module in model.modules()] == before


def test_many_rows_are_scored_in_groups_of_like_length_as_each_is_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 150  # enough for several groups
    present = torch.rand(rows, 12, generator=generator) < torch.rand(rows, 1, generator=generator)
    present[:, 0] = True
    scored = present & (present.cumsum(dim=1) > 1)
    tokens = torch.randint(0, VOCAB, (rows, 12), generator=generator)
    model = tiny_transformer(vocab=VOCAB)
    together = token_logps(model, tokens, present, scored)
    alone = torch.cat([token_logps(model, *(t[i : i + 1] for t in (tokens, present, scored))) for i in range(rows)])
    assert present.sum(dim=1).unique().numel() > 3
    torch.testing.assert_close(together, alone, **EXACT)


def test_the_gradient_of_a_log_probability_is_the_token_less_the_distribution() -> None:
    logits = (5 * torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).requires_grad_()
    tokens = torch.tensor([0, 3, 6, 3])
    found = logps_of_logits([logits], tokens)[0]
    assert torch.equal(found, -F.cross_entropy(logits, tokens, reduction="none"))
    found.sum().backward(retain_graph=True)
    expected = F.one_hot(tokens, 7) - logits.detach().softmax(dim=1)
    torch.testing.assert_close(logits.grad, expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # rather than a wrong gradient
        found.sum().backward()
