"""References: cached scores are the frozen copy's, computed once for the same tokens and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import batches, tiny_transformer
from torch import Tensor, nn

from dpo_lab.artifacts.store import Store
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.logps import Scoring
from dpo_lab.training.references import REFERENCES

CACHED, FROZEN = REFERENCES["cached"](), REFERENCES["frozen"]()


class Counting(nn.Module):
    """A model that counts how often it is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        return self.model(tokens)


def small_model(seed: int = 0) -> nn.Module:
    return tiny_transformer(seed=seed).float()


def comparisons(b: int = 5, seed: int = 0) -> CandidateBatch:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, b, 4, generator=draw) < 0.6
    mask[:, :, 1] = True
    return CandidateBatch(
        prompt=torch.randint(5, (b, 3), generator=draw),
        prompt_mask=torch.arange(3) < torch.randint(1, 4, (b, 1), generator=draw),
        completions=torch.randint(5, (2, b, 4), generator=draw),
        mask=mask,
        ids=torch.arange(b),
        confidence=torch.ones(b),
    )


@settings(max_examples=25)
@given(data=batches(shortest=1), rows=st.lists(st.integers(0, 99), min_size=1, max_size=4), seed=st.integers(0, 2))
def test_cached_scores_are_the_frozen_copys_however_the_data_is_padded(
    data: CandidateBatch, rows: list[int], seed: int
) -> None:
    model = small_model(seed)
    with TemporaryDirectory() as root:
        prepared = CACHED.prepare(model, data, "key", Store(Path(root)))
    chosen = torch.tensor([row % len(data) for row in rows])
    cached = CACHED.score(model, prepared.select(chosen))
    frozen = FROZEN.score(model, data.select(chosen))
    assert cached is not None
    assert cached.dtype == torch.float32
    assert torch.equal(prepared.reference == 0, ~data.mask), "padding is 0 and nothing else is"
    # Float32; products over other batch shapes round the last bit otherwise, and scores reach some 20 nats.
    torch.testing.assert_close(cached, frozen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 16, 40])
def test_cached_scores_do_not_depend_on_how_many_tokens_run_at_once(tmp_path: Path, tokens: int) -> None:
    model, data = Counting(small_model()), comparisons()
    cached = CACHED.prepare(model, data, "key", Store(tmp_path), Scoring(micro_batch_tokens=tokens)).reference
    assert model.calls > 1
    torch.testing.assert_close(cached, FROZEN.score(model, data), rtol=1e-5, atol=1e-5)


def test_preparing_again_asks_the_model_nothing_and_gives_the_same_bits(tmp_path: Path) -> None:
    model, data = Counting(small_model()), comparisons()
    first = CACHED.prepare(model, data, "key", Store(tmp_path)).reference
    assert model.calls > 0
    calls = model.calls
    again = CACHED.prepare(model, replace(data, confidence=torch.full((5,), 0.7)), "key", Store(tmp_path)).reference
    assert model.calls == calls
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)


def changed(field: str) -> Callable[[CandidateBatch], CandidateBatch]:
    def change(data: CandidateBatch) -> CandidateBatch:
        tensor = getattr(data, field).clone()
        tensor[..., -1] = ~tensor[..., -1] if tensor.dtype == torch.bool else (tensor[..., -1] + 1) % 5
        return replace(data, **{field: tensor})

    return change


@pytest.mark.parametrize("field", ["prompt", "prompt_mask", "completions", "mask"])
def test_other_tokens_are_scored_anew(tmp_path: Path, field: str) -> None:
    model, data = small_model(), comparisons()
    CACHED.prepare(model, data, "key", Store(tmp_path))
    other = changed(field)(data)
    found = CACHED.prepare(model, other, "key", Store(tmp_path)).reference
    torch.testing.assert_close(found, FROZEN.score(model, other), rtol=1e-5, atol=1e-5)


def test_other_weights_score_anew(tmp_path: Path) -> None:
    data, other = comparisons(), small_model(seed=1)
    CACHED.prepare(small_model(), data, "key", Store(tmp_path))
    found = CACHED.prepare(other, data, "other key", Store(tmp_path)).reference
    torch.testing.assert_close(found, FROZEN.score(other, data), rtol=1e-5, atol=1e-5)


def test_scores_of_one_precision_never_serve_another(tmp_path: Path) -> None:
    model, data = small_model(), comparisons()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = CACHED.prepare(model, data, "key", Store(tmp_path)).reference
        torch.testing.assert_close(half, FROZEN.score(model, data), rtol=1e-5, atol=1e-5)
    full = CACHED.prepare(model, data, "key", Store(tmp_path)).reference
    torch.testing.assert_close(full, FROZEN.score(model, data), rtol=1e-5, atol=1e-5)


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    model, data = small_model(), comparisons()
    CACHED.prepare(model, data, "key", Store(tmp_path))
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = CACHED.prepare(model, data, "key", Store(tmp_path)).reference
    torch.testing.assert_close(found, FROZEN.score(model, data), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(REFERENCES))
def test_no_gradient_reaches_a_reference(tmp_path: Path, name: str) -> None:
    model, data = small_model(), comparisons()
    spec = REFERENCES[name]()
    found = spec.score(model, spec.prepare(model, data, "key", Store(tmp_path)))
    assert (found is None) == (name == "none")
    assert found is None or not found.requires_grad


def test_unprepared_data_has_no_cached_scores() -> None:
    with pytest.raises(AssertionError, match="not prepared by this reference"):
        CACHED.score(small_model(), comparisons())
