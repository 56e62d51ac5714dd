"""Samples come from the model's own distribution, whatever stands beside them in the batch."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import ForwardOnly, RecurrentTable, models, tiny_transformer
from torch import Tensor, nn

from dpo_lab.generation import Decodes, sample
from dpo_lab.models.transformer import TransformerSpec

END = 2
Completion = tuple[int, ...]
few = settings(max_examples=10)


def prompts(rows: list[list[int]], columns: list[list[int]] | None = None) -> tuple[Tensor, Tensor]:
    """Padding (token 0) on the right, or wherever `columns` leaves it."""
    columns = columns or [list(range(len(row))) for row in rows]
    width = max(max(row) for row in columns) + 1
    tokens, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
    for r, (row, at) in enumerate(zip(rows, columns, strict=True)):
        tokens[r, at], mask[r, at] = torch.tensor(row), True
    return tokens, mask


def drawn(model: nn.Module, rows: list[list[int]], max_tokens: int = 3, seed: int = 0, **options: float) -> list[Completion]:
    tokens, mask = sample(
        model, *prompts(rows), max_tokens=max_tokens, end=END, generator=torch.Generator().manual_seed(seed), **options
    )
    return [tuple(t[m].tolist()) for t, m in zip(tokens, mask, strict=True)]


def distribution(
    model: nn.Module, prompt: list[int], vocab: int, max_tokens: int, temperature: float = 1.0
) -> dict[Completion, float]:
    """Probability of each completion that can come out, by enumeration."""
    found: dict[Completion, float] = {}
    for length in range(1, max_tokens + 1):
        for tokens in product(range(vocab), repeat=length):
            ended = tokens[-1] == END
            if END in tokens[:-1] or (length < max_tokens and not ended):
                continue
            probability, prefix = 1.0, list(prompt)
            for token in tokens:
                with torch.no_grad():
                    logits = [x / temperature for x in model(torch.tensor([prefix]))[0, -1].double().tolist()]
                probability *= math.exp(logits[token]) / sum(map(math.exp, logits))
                prefix.append(token)
            found[tokens] = probability
    assert sum(found.values()) == pytest.approx(1.0)
    return found


def assert_frequencies(samples: list[Completion], expected: dict[Completion, float]) -> None:
    """Pearson's statistic within 4 standard deviations of its mean; rare completions are pooled."""
    counts = Counter(samples)
    assert set(counts) <= set(expected)
    cells: list[tuple[float, float]] = []
    pooled = [0.0, 0.0]
    for completion, probability in expected.items():
        observed, mean = counts[completion], probability * len(samples)
        if mean >= 5:
            cells.append((observed, mean))
        else:
            pooled = [pooled[0] + observed, pooled[1] + mean]
    if pooled[1] >= 5:
        cells.append((pooled[0], pooled[1]))
    freedom = len(cells) - 1
    assert freedom >= 3, "too few outcomes to say anything"
    statistic = sum((observed - mean) ** 2 / mean for observed, mean in cells)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


MODELS = {
    "table": RecurrentTable(vocab=3, seed=1),
    "transformer, cached": tiny_transformer(vocab=3, seed=1),
    "transformer, plain": ForwardOnly(tiny_transformer(vocab=3, seed=1)),
}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


@each_model
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_frequencies_are_the_models_probabilities(model: nn.Module, temperature: float) -> None:
    samples = drawn(model, [[1, 0]] * 3000, temperature=temperature)
    assert_frequencies(samples, distribution(model, [1, 0], 3, 3, temperature))


def test_the_frequency_check_rejects_another_temperature() -> None:
    model = MODELS["table"]
    samples = drawn(model, [[1, 0]] * 3000, temperature=1.3)
    with pytest.raises(AssertionError):
        assert_frequencies(samples, distribution(model, [1, 0], 3, 3))


@each_model
def test_a_prompt_among_others_of_other_lengths_keeps_its_distribution(model: nn.Module) -> None:
    rows = [[1], [1, 0, 1], [0, 1]]
    samples = drawn(model, rows * 1500)
    for i, row in enumerate(rows):
        assert_frequencies(samples[i :: len(rows)], distribution(model, row, 3, 3))


@few
@given(models(), st.data())
def test_greedy_samples_do_not_depend_on_the_other_prompts_or_on_padding(model: nn.Module, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=4))
    columns = [sorted(data.draw(st.permutations(range(6)))[: len(row)]) for row in rows]
    generator = torch.Generator().manual_seed(0)
    tokens, mask = sample(model, *prompts(rows, columns), max_tokens=4, end=END, generator=generator, temperature=0.0)
    for row, found, real in zip(rows, tokens, mask, strict=True):
        assert (tuple(found[real].tolist()),) == tuple(drawn(model, [row], max_tokens=4, temperature=0.0))


@few
@given(models(), st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_temperature_0_takes_the_most_likely_token(model: nn.Module, prompt: list[int]) -> None:
    prefix = list(prompt)
    (completion,) = drawn(model, [prompt], max_tokens=5, temperature=0.0)
    for token in completion:
        logits = model(torch.tensor([prefix]))[0, -1].tolist()
        assert token == max(range(len(logits)), key=logits.__getitem__)
        prefix.append(token)


@few
@given(models(), st.integers(0, 1000), st.integers(1, 5))
def test_a_completion_ends_with_its_first_end_token_or_is_cut(model: nn.Module, seed: int, max_tokens: int) -> None:
    tokens, mask = sample(
        model,
        *prompts([[1], [3, 1], [4], [0, 1, 3]]),
        max_tokens=max_tokens,
        end=END,
        generator=torch.Generator().manual_seed(seed),
    )
    assert tokens.shape == mask.shape
    assert mask.any(dim=0).all(), "a column that no row uses"
    for row, real in zip(tokens, mask, strict=True):
        length = int(real.sum())
        assert real.tolist() == [True] * length + [False] * (len(real) - length)
        assert END not in row[: length - 1].tolist()
        assert 1 <= length <= max_tokens
        assert length == max_tokens or row[length - 1] == END


class AlwaysEnd(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.full((*tokens.shape, 4), -1e9)
        logits[..., END] = 0
        return logits


def test_an_end_token_at_once_is_the_whole_completion() -> None:
    tokens, mask = sample(AlwaysEnd(), *prompts([[1], [1, 3]]), max_tokens=5, end=END, generator=torch.Generator())
    assert tokens.tolist() == [[END], [END]]
    assert mask.tolist() == [[True], [True]]


@each_model
def test_the_generator_alone_decides(model: nn.Module) -> None:
    rows = [[1], [1, 0, 1], [0]] * 20
    torch.manual_seed(1)
    first = drawn(model, rows, seed=7)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert drawn(model, rows, seed=7) == first
    assert torch.get_rng_state().equal(before)
    assert drawn(model, rows, seed=8) != first


def test_a_generator_goes_on_where_it_stands() -> None:
    generator = torch.Generator().manual_seed(0)
    prompt, mask = prompts([[1]] * 50)
    one, other = (sample(MODELS["table"], prompt, mask, 3, end=END, generator=generator)[0] for _ in range(2))
    assert not one.equal(other)


@pytest.mark.parametrize("rows_at_once", [1, 7, 512])
def test_chunks_leave_rows_in_their_places(rows_at_once: int) -> None:
    rows = [[1], [3, 1], [4], [0, 1, 3]] * 5
    whole = drawn(RecurrentTable(), rows, temperature=0.0)
    assert drawn(RecurrentTable(), rows, temperature=0.0, rows_at_once=rows_at_once) == whole
    assert len(set(whole)) > 1


@given(st.integers(0, 3), st.booleans(), st.lists(st.integers(0, 4), min_size=2, max_size=8), st.data())
def test_cached_decoding_equals_the_full_forward(seed: int, tie: bool, row: list[int], data: st.DataObject) -> None:
    model = tiny_transformer(seed=seed, tie_embedding=tie, depth=2)
    assert isinstance(model, Decodes)
    tokens = torch.tensor([row, row[::-1]])
    full = model(tokens)
    start = data.draw(st.integers(1, len(row) - 1))
    logits, state = model.decode(tokens[:, :start])
    torch.testing.assert_close(logits, full[:, start - 1], rtol=1e-10, atol=1e-10)
    for t in range(start, len(row)):
        logits, state = model.decode(tokens[:, t : t + 1], state)
        torch.testing.assert_close(logits, full[:, t], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cached_and_plain_sampling_draw_the_same(temperature: float) -> None:
    model = tiny_transformer(context=12)
    rows = [[1], [3, 1], [4], [0, 1, 3]] * 10
    cached, plain = (drawn(m, rows, max_tokens=9, temperature=temperature) for m in (model, ForwardOnly(model)))
    assert cached == plain


@pytest.mark.parametrize("cached", [True, False])
def test_what_exceeds_the_context_is_refused_and_what_fills_it_is_sampled(cached: bool) -> None:
    model = tiny_transformer(context=4)
    model = model if cached else ForwardOnly(model)
    assert all(len(c) <= 3 for c in drawn(model, [[1, 3], [4]] * 20, max_tokens=3))
    with pytest.raises(ValueError, match="a prompt of 3 tokens and 3 sampled ones exceed the model's context of 4"):
        drawn(model, [[1], [1, 3, 4]], max_tokens=3)


def test_an_empty_prompt_is_refused() -> None:
    prompt, mask = prompts([[1], [3, 4]])
    mask[0] = False
    with pytest.raises(ValueError, match="empty prompt"):
        sample(RecurrentTable(), prompt, mask, 2, end=END, generator=torch.Generator())


def test_no_prompts_give_no_completions() -> None:
    none = torch.zeros(0, 2, dtype=torch.long)
    tokens, mask = sample(RecurrentTable(), none, none.bool(), 3, end=END, generator=torch.Generator())
    assert len(tokens) == len(mask) == 0


def test_sampling_is_without_dropout_and_leaves_the_mode() -> None:
    torch.manual_seed(0)
    model = TransformerSpec(dim=16, depth=1, heads=2, context=16, dropout=0.5).build(5).train()
    rows = [[1], [3, 1], [4]] * 10
    first = drawn(model, rows, temperature=0.0)
    torch.manual_seed(1)
    assert drawn(model, rows, temperature=0.0) == first
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
