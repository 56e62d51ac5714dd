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
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

from dpo_lab.models import generation
from dpo_lab.models.generation import Decoding, HasDecoding, _draw, sample
from dpo_lab.models.transformer import TransformerPolicy, TransformerSpec
from dpo_lab.seeding import stream, streams_of_prompts

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
    streams = stream(seed, "test").branches(len(rows))
    tokens, mask = sample(model, *prompts(rows), max_tokens=max_tokens, ends=[END], streams=streams, **options)
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
    streams = stream(0, "test").branches(len(rows))
    tokens, mask = sample(model, *prompts(rows, columns), max_tokens=4, ends=[END], streams=streams, temperature=0.0)
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
        *prompts([[1], [3, 1], [4], [0, 1, 3]] * 4),
        max_tokens=max_tokens,
        ends=[END],
        streams=stream(seed, "test").branches(16),
    )
    assert tokens.shape == mask.shape
    assert mask.any(dim=0).all(), "a column that no row uses"
    for row, real in zip(tokens, mask, strict=True):
        length = int(real.sum())
        assert real.tolist() == [True] * length + [False] * (len(real) - length)
        assert END not in row[: length - 1].tolist()
        assert set(row[length:].tolist()) <= {END}
        assert 1 <= length <= max_tokens
        assert length == max_tokens or row[length - 1] == END


@few
@given(models(), st.integers(0, 1000))
def test_with_several_end_tokens_a_completion_is_the_same_cut_at_the_first_of_them(model: nn.Module, seed: int) -> None:
    rows, other = [[1], [3, 1], [4], [0, 1, 3]] * 4, 3
    streams = stream(seed, "test").branches(16)
    tokens, mask = sample(model, *prompts(rows), max_tokens=5, ends=[END, other], streams=streams)
    streams = stream(seed, "test").branches(16)
    for row, real, whole in zip(tokens, mask, sample(model, *prompts(rows), 5, ends=[END], streams=streams)[0], strict=True):
        first = min([i for i, token in enumerate(whole.tolist()) if token in (END, other)], default=4)
        assert row[real].tolist() == whole[: first + 1].tolist()
        assert set(row[~real].tolist()) <= {END}


class AlwaysEnd(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.full((*tokens.shape, 4), -1e9)
        logits[..., END] = 0
        return logits


def test_an_end_token_at_once_is_the_whole_completion() -> None:
    tokens, mask = sample(AlwaysEnd(), *prompts([[1], [1, 3]]), max_tokens=5, ends=[END], streams=stream(0, "test").branches(2))
    assert tokens.tolist() == [[END], [END]]
    assert mask.tolist() == [[True], [True]]


@each_model
def test_the_streams_alone_decide(model: nn.Module) -> None:
    rows = [[1], [1, 0, 1], [0]] * 20
    torch.manual_seed(1)
    first = drawn(model, rows, seed=7)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert drawn(model, rows, seed=7) == first
    assert torch.get_rng_state().equal(before)
    assert drawn(model, rows, seed=8) != first


@few
@given(models(), st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=5), st.data())
def test_a_prompts_samples_are_its_own_whatever_is_sampled_beside_them(
    model: nn.Module, rows: list[list[int]], data: st.DataObject
) -> None:
    """In another order and batch, beside other prompts, cut later, and with more samples of each, they begin with the same."""

    def samples(rows: list[list[int]], k: int, **options: int) -> dict[tuple[tuple[int, ...], int], list[Completion]]:
        """Of each prompt, and of which of those equal to it, its k completions."""
        prompt, mask = prompts(rows)
        streams = streams_of_prompts(0, "test", prompt, mask).branches(k)
        found, real = sample(model, prompt.repeat(k, 1), mask.repeat(k, 1), ends=[END], streams=streams, **options)
        texts = [tuple(t[m].tolist()) for t, m in zip(found, real, strict=True)]
        return {(tuple(row), sum(other == row for other in rows[:i])): texts[i :: len(rows)] for i, row in enumerate(rows)}

    few = samples(rows, 2, max_tokens=3)
    others = data.draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), max_size=3))
    at_once = data.draw(st.integers(1, 9))
    many = samples(data.draw(st.permutations(rows)) + others, 4, max_tokens=5, rows_at_once=at_once)
    assert few == {row: [text[:3] for text in many[row][:2]] for row in few}


def edges(logits: Tensor, tokens: Tensor) -> Tensor:
    """The smallest number that draws each of these tokens or a later one, found by halving."""
    low, high = torch.zeros(len(tokens), 1, dtype=torch.float64), torch.ones(len(tokens), 1, dtype=torch.float64)
    for _ in range(56):
        middle = (low + high) / 2
        reached = _draw(logits.expand(len(tokens), -1), middle, 1.0)[:, None] >= tokens[:, None]
        low, high = low.where(reached, middle), middle.where(reached, high)
    return high[:, 0]


@pytest.mark.parametrize("vocab", [7, 600, 100_000])
@pytest.mark.parametrize("kind", ["even", "one that takes nearly all"])
def test_every_token_of_a_large_vocabulary_is_drawn_as_often_as_it_should(vocab: int, kind: str) -> None:
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(0))
    if kind != "even":
        logits[0, vocab // 2] = 21.0  # all others have masses of some 1e-9
    some = torch.randperm(vocab - 1, generator=torch.Generator().manual_seed(1))[:6]
    found = edges(logits, torch.cat((some, some + 1))).unflatten(0, (2, -1)).diff(dim=0)[0]
    right = logits[0].double().softmax(dim=0)[some]
    # Masses are float32's, and edges are multiples of 2^-53.
    torch.testing.assert_close(found, right, rtol=1e-6, atol=2.0**-51)


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("vocab", [5, 1000])
def test_what_cannot_be_is_not_drawn_at_either_end(number: float, vocab: int) -> None:
    logits = torch.full((1, vocab), -torch.inf)
    logits[0, [2, 3]] = torch.tensor([0.3, 0.1])
    before = logits.clone()
    assert int(_draw(logits, torch.tensor([[number]], dtype=torch.float64), 1.0)) == (2 if number == 0 else 3)
    assert logits.equal(before), "the model's own logits are written over"


@pytest.mark.parametrize("rows_at_once", [1, 7, 512])
def test_chunks_leave_rows_in_their_places(rows_at_once: int) -> None:
    rows = [[1], [3, 1], [4], [0, 1, 3]] * 5
    whole = drawn(RecurrentTable(), rows, temperature=0.0)
    assert drawn(RecurrentTable(), rows, temperature=0.0, rows_at_once=rows_at_once) == whole
    assert len(set(whole)) > 1


KNOWN: dict[str, dict[str, object]] = {
    "rotary": {"rotary_pos_emb": True},
    "no positions": {},
    "learned positions": {"use_abs_pos_emb": True},
    "grouped queries": {"rotary_pos_emb": True, "attn_kv_heads": 1},
    "layer norm and other blocks": {"rotary_pos_emb": True, "use_rmsnorm": False, "ff_glu": True, "use_scalenorm": True},
    "RMS norm without its offset": {"rotary_pos_emb": True, "norm_add_unit_offset": False},
    "scaled residuals": {"rotary_pos_emb": True, "scale_residual": True},
    "normed queries and keys": {"rotary_pos_emb": True, "attn_qk_norm": True},
}
UNKNOWN: dict[str, dict[str, object]] = {
    "alibi": {"alibi_pos_bias": True},
    "relative position bias": {"rel_pos_bias": True},
    "xpos": {"rotary_xpos": True},
    "memory keys": {"rotary_pos_emb": True, "attn_num_mem_kv": 2},
    "shifted tokens": {"rotary_pos_emb": True, "shift_tokens": 1},
    "a window": {"rotary_pos_emb": True, "attn_max_attend_past": 6},
    "gated values": {"rotary_pos_emb": True, "attn_gate_values": True},
    "residual streams": {"rotary_pos_emb": True, "num_residual_streams": 2},
    "norms behind the blocks": {"rotary_pos_emb": True, "sandwich_norm": True},
    "T5-like scaling of what comes out": {"rotary_pos_emb": True, "softclamp_output": True, "softclamp_output_value": 1.0},
}


def network(options: dict[str, object], tie: bool = False) -> TransformerPolicy:
    """A float64 decoder of x-transformers with these options."""
    options = {"use_rmsnorm": "use_scalenorm" not in options, **options}
    absolute = bool(options.pop("use_abs_pos_emb", False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = Decoder(
            dim=16, depth=2, heads=2, attn_dim_head=16, attn_flash="rel_pos_bias" not in options, verbose=False, **options
        )
        wrapper = TransformerWrapper(
            num_tokens=5, max_seq_len=16, attn_layers=layers, tie_embedding=tie, use_abs_pos_emb=absolute
        )
        for parameter in wrapper.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return TransformerPolicy(wrapper.double().eval())


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("options", KNOWN.values(), ids=KNOWN.keys())
@torch.no_grad()
def test_decoding_from_buffers_equals_the_full_forward(options: dict[str, object], tie: bool) -> None:
    model = network(options, tie)
    assert isinstance(model, HasDecoding)
    rows = torch.randint(5, (4, 9), generator=torch.Generator().manual_seed(0))
    starts = torch.tensor([0, 3, 1, 3])
    decoding = model.decoding(starts, 9)
    logits, stop = decoding.read(rows[:, :4]), 4
    for kept, fresh in [([0, 1, 2, 3], 1), ([3, 1, 1, 0, 2], 1), ([4, 3, 1], 2), ([2, 0], 1)]:
        for row, start, found in zip(rows, starts, logits, strict=True):
            right = model(row[None, start:stop])[0, -1]
            torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
        rows, starts = rows[kept], starts[kept]
        decoding.keep(torch.tensor(kept))
        logits, stop = decoding.read(rows[:, stop : stop + fresh]), stop + fresh


@pytest.mark.parametrize("options", [*KNOWN.values(), *UNKNOWN.values()], ids=[*KNOWN.keys(), *UNKNOWN.keys()])
def test_an_option_is_decoded_rightly_or_not_from_buffers(options: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    model = network(options)
    rows = [[1], [3, 1], [4], [0, 1, 3, 3]] * 5
    assert drawn(model, rows, max_tokens=9) == drawn(ForwardOnly(model), rows, max_tokens=9)
    assert ("the whole row for each token" in caplog.text) == (options in UNKNOWN.values())


class Drifting(TransformerPolicy):
    """A network with something that its decoding does not know, of no effect until it is trained."""

    drift = 0.0

    def hidden(self, tokens: Tensor) -> Tensor:
        return super().hidden(tokens) + self.drift * (tokens == 1)[..., None]


def test_what_only_training_makes_wrong_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    model = Drifting(network({"rotary_pos_emb": True}).net)
    rows = [[1], [3, 1], [4]] * 10
    for drift, seen in [(0.0, False), (3.0, True)]:
        model.drift = drift
        assert drawn(model, rows, max_tokens=5) == drawn(ForwardOnly(model), rows, max_tokens=5)
        assert ("logits differ" in caplog.text) == seen


def test_greedy_output_is_that_of_the_wrapper() -> None:
    model = tiny_transformer(context=32, depth=2, seed=3)
    rows = [[1], [3, 1], [4], [0, 1, 3], [3, 3, 4, 0, 1]]
    generate = AutoregressiveWrapper(model.net, pad_value=0).generate  # with END, it takes the padding of prompts for their end
    greedy = generate([torch.tensor(row) for row in rows], 20, eos_token=END, temperature=0.0)
    ends = [row.index(END) + 1 if END in row else len(row) for row in greedy.tolist()]
    assert drawn(model, rows, max_tokens=20, temperature=0.0) == [
        tuple(row[:n]) for row, n in zip(greedy.tolist(), ends, strict=True)
    ]
    assert len(set(ends)) > 1


@each_model
@pytest.mark.parametrize(
    "setting", [{"COMPACT_BELOW": 0}, {"COMPACT_BELOW": 2}, {"LOOK_EVERY": {"cpu": 3}}, {"ROWS_ON_CPU": 5}]
)
def test_how_rows_are_run_changes_no_sample(
    model: nn.Module, setting: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[1], [1, 0, 1], [0]] * 10
    before = drawn(model, rows, max_tokens=7)
    for name, value in setting.items():
        monkeypatch.setattr(generation, name, value)
    assert drawn(model, rows, max_tokens=7) == before


class Counting:
    """A decoding that notes how many rows it was given at each read."""

    def __init__(self, decoding: Decoding, rows: list[int]) -> None:
        self.decoding, self.rows = decoding, rows

    def read(self, tokens: Tensor) -> Tensor:
        self.rows.append(len(tokens))
        return self.decoding.read(tokens)

    def keep(self, rows: Tensor) -> None:
        self.decoding.keep(rows)


def test_equal_prompts_are_read_once_and_ended_rows_no_longer() -> None:
    model, sizes = tiny_transformer(), list[int]()
    decoding = model.decoding
    model.decoding = lambda starts, width: Counting(decoding(starts, width), sizes)  # type: ignore[method-assign]
    completions = drawn(model, [[1, 3], [4], [1, 3]] * 20, max_tokens=20)
    checked, (prompts, *steps) = sizes[:2], sizes[2:]
    assert checked == [2, 2]
    assert prompts == 2
    assert len(steps) == max(map(len, completions)) - 1
    for t, rows in enumerate(steps, start=1):
        running = sum(len(c) > t for c in completions)
        assert running <= rows <= max(running / generation.COMPACT_BELOW, 1)


def test_a_batch_is_as_large_as_its_cache_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = tiny_transformer(), list[int]()
    made = model.decoding(torch.zeros(3, dtype=torch.long), 11)
    made.read(torch.zeros(3, 2, dtype=torch.long))
    assert sum(t.nbytes for layer in made.buffers for t in layer) == 3 * model.cache_bytes(11)
    model.decoding = lambda starts, width: sizes.append(len(starts)) or made  # type: ignore[method-assign]
    monkeypatch.setattr(generation, "CACHE_ON_CPU", 7 * model.cache_bytes(4))
    monkeypatch.setattr(generation, "_decoding_error", lambda *_: None)
    monkeypatch.setattr(generation, "_sample_rows", lambda begin, prompts, copies, *_: sizes.append(len(copies)) or END)
    drawn(model, [[1, 3]] * 20, max_tokens=3)
    assert sizes == [7, 7, 6]


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
        sample(RecurrentTable(), prompt, mask, 2, ends=[END], streams=stream(0, "test").branches(2))


def test_no_prompts_give_no_completions() -> None:
    none = torch.zeros(0, 2, dtype=torch.long)
    tokens, mask = sample(RecurrentTable(), none, none.bool(), 3, ends=[END], streams=stream(0, "test").branches(0))
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
