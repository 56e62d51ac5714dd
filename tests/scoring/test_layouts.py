"""Every layout gives the scores and gradients of one row per candidate, for every model that it is used with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from batches import comparison
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from strategies import ForwardOnly, batches, oracle_score, tiny_transformer
from torch import Tensor, nn
from xtransformers import CONTEXT, EXACT, VOCAB, drawn, model

from dpo_lab.models.transformer import TransformerPolicy
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import ALL_LAYOUTS, Layout, choosing, plan_batch
from dpo_lab.scoring.logps import Scoring, logps_of_logits, score, score_with
from dpo_lab.scoring.self_check import exact_layouts
from dpo_lab.training.compute import Compute

SHARED = (Layout.branches, Layout.packed)


def with_gradients(
    network: nn.Module, batch: CandidateBatch, layouts: Sequence[Layout], portion: int | None = None
) -> list[Tensor]:
    scores = score(network, batch, Scoring(layouts, portion))
    weights = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape)
    parameters = list(network.parameters())
    found = torch.autograd.grad((weights * scores).sum(), parameters, allow_unused=True, materialize_grads=True)
    return [scores.detach(), *found]


def assert_alike(ours: Sequence[Tensor], theirs: Sequence[Tensor], option: str = "") -> None:
    # The softmax of default attention is float32 in float64 models too.
    single = theirs[0].dtype == torch.float32 or option in ("default attention", "T5 bias")
    exact = {"rtol": 1e-4, "atol": 2e-5} if single else {"rtol": 1e-9, "atol": 1e-10}
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **exact)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("option", [option for option, layouts in EXACT.items() if layouts])
def test_a_layout_changes_no_score_and_no_gradient(option: str, k: int) -> None:
    network, batch = model(option), drawn(k)
    plain = with_gradients(ForwardOnly(network), batch, [Layout.rows])
    assert plain[0][batch.mask].abs().min() > 0
    for layout in EXACT[option]:
        assert plan_batch([network], batch, [layout]).layout is layout
        assert_alike(with_gradients(network, batch, [layout]), plain, option)


@pytest.mark.parametrize("portion", [1, 7, 1000])
@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_a_head_in_portions_changes_no_score_and_no_gradient(layout: Layout, portion: int) -> None:
    network, batch = tiny_transformer(vocab=VOCAB, context=CONTEXT), drawn(2)
    plain = with_gradients(network, batch, [Layout.rows])
    assert_alike(with_gradients(network, batch, [layout], portion), plain)


def test_no_more_logits_exist_at_a_time_than_a_portion_has() -> None:
    network, batch = tiny_transformer(vocab=VOCAB), drawn(2)
    seen: list[int] = []
    network.net.to_logits.register_forward_hook(lambda module, given, found: seen.append(len(found)))
    scores = score(network, batch, Scoring(head_portion=5))
    tokens = int(batch.mask.sum())
    assert max(seen) == 5
    assert sum(seen) == tokens, "completion positions only"
    scores.sum().backward()
    assert sum(seen) == 2 * tokens, "computed again rather than kept"


@settings(max_examples=12)
@given(
    st.sampled_from(
        [(option, one) for option in ("rotary", "learned positions", "alibi") for one in SHARED if one in EXACT[option]]
    ),
    batches(),
)
def test_shared_prompts_score_as_the_oracle_does(case: tuple[str, Layout], batch: CandidateBatch) -> None:
    option, layout = case
    network = model(option)
    with torch.no_grad():
        found = score(network, batch, Scoring([layout]))
    torch.testing.assert_close(found, oracle_score(network, batch), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shortest", [1, 2])
@pytest.mark.parametrize("layout", [*SHARED, Layout.rows])
@pytest.mark.parametrize("option", ["rotary", "learned positions"])
def test_nothing_leaks_between_candidates(option: str, layout: Layout, shortest: int) -> None:
    network, batch = model(option), drawn(4, shortest)
    before = score(network, batch, Scoring([layout]))
    for candidate in range(4):
        changed = replace(batch, completions=batch.completions.clone())
        changed.completions[candidate] = (changed.completions[candidate] + 3) % VOCAB
        after = score(network, changed, Scoring([layout]))
        others = torch.arange(4) != candidate
        torch.testing.assert_close(after[others], before[others], rtol=1e-13, atol=1e-13)
        assert not torch.isclose(after[candidate], before[candidate])[batch.mask[candidate]].any()


@pytest.mark.parametrize("layout", [*SHARED, Layout.rows])
def test_a_changed_token_changes_no_earlier_term(layout: Layout) -> None:
    network, batch = model("rotary"), drawn(2)
    changed = replace(batch, completions=batch.completions.clone())
    changed.completions[0, 0, 1] = (changed.completions[0, 0, 1] + 1) % VOCAB
    before, after = (score(network, of, Scoring([layout])) for of in (batch, changed))
    torch.testing.assert_close(after[0, 0, :1], before[0, 0, :1], rtol=1e-13, atol=1e-13)
    assert not torch.isclose(after[0, 0, 1:], before[0, 0, 1:])[batch.mask[0, 0, 1:]].any()


@pytest.mark.parametrize("layout", [*ALL_LAYOUTS, Layout.auto])
def test_empty_prompts_are_refused_and_empty_completions_score_0(layout: Layout) -> None:
    layouts = ALL_LAYOUTS if layout is Layout.auto else (layout,)
    network = model("rotary")
    with pytest.raises(ValueError, match="row 1 has an empty prompt"):
        score(network, comparison([[1], []], [[[2], [3]]]), Scoring(layouts))
    batch = comparison([[1, 2]], [[[1]], [[2]]])
    batch.mask = torch.zeros_like(batch.mask)
    assert score(network, batch, Scoring(layouts)).equal(torch.zeros(2, 1, 1, dtype=torch.float64))


def long(p: int, m: int, k: int = 2) -> CandidateBatch:
    return comparison([[1] * p] * 4, [[[2] * m] * 4] * k)


def large(option: str = "rotary", context: int = 2048) -> TransformerPolicy:
    return model(option, context=context)


def test_auto_counts_work_and_takes_the_cheapest() -> None:
    network = large()
    assert plan_batch([network], long(300, 50), ALL_LAYOUTS).layout is not Layout.rows
    assert plan_batch([network], long(2, 300), ALL_LAYOUTS).layout is Layout.rows
    assert plan_batch([network], long(300, 50, k=1), ALL_LAYOUTS).layout is Layout.rows
    uneven = comparison([[1] * 9] * 4, [[[2] * n for n in (5, 300, 40, 150)]])
    assert plan_batch([network], uneven, ALL_LAYOUTS).layout is Layout.packed, "no padding"
    for batch in (long(300, 50), long(2, 300), long(80, 80, k=4)):
        costs = [plan_batch([network], batch, [layout]).cost for layout in ALL_LAYOUTS]
        assert plan_batch([network], batch, ALL_LAYOUTS).cost == min(costs)


def test_auto_does_not_pack_where_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(exact_layouts(large(), Layout.auto, pytest.fail)) == set(ALL_LAYOUTS)
    monkeypatch.setattr(choosing, "device_of", lambda model: torch.device("mps"))
    assert set(exact_layouts(large(), Layout.auto, pytest.fail)) == set(ALL_LAYOUTS) - {Layout.packed}
    assert exact_layouts(large(), Layout.packed, pytest.fail) == (Layout.packed,)


def test_a_row_that_a_table_of_positions_cannot_hold_gets_another_layout() -> None:
    batch = long(20, 20)  # 60 tokens behind one another, at positions up to 40
    assert plan_batch([large("learned positions", 60)], batch, [Layout.branches]).layout is Layout.branches
    assert plan_batch([large("learned positions", 50)], batch, [Layout.branches]).layout is Layout.rows
    assert plan_batch([large("rotary", 50)], batch, [Layout.branches]).layout is Layout.branches
    for context, passes in ((250, 1), (130, 2), (60, 4)):
        packed = plan_batch([large("learned positions", context)], batch, [Layout.packed])
        assert packed.layout is Layout.packed
        assert len(packed.passes()) == passes, "as many prompts in a row as it holds"
    assert plan_batch([large("learned positions", 50)], batch, [Layout.packed]).layout is Layout.rows


def test_a_packed_row_holds_every_token_once_and_no_padding() -> None:
    network, batch = large(), drawn(3, shortest=4)
    (part,) = plan_batch([network], batch, [Layout.packed]).passes()
    read = (batch.mask.sum(dim=2) - 1).clamp(min=0).sum()  # the last token of a completion is predicted, never read
    assert len(part.tokens) == batch.prompt_mask.sum() + read  # type: ignore[attr-defined]
    assert len(part.slots) == len(part.slots.unique()) == batch.mask.sum()


def test_a_model_that_is_only_its_logits_gets_rows() -> None:
    batch = drawn(2)
    assert plan_batch([ForwardOnly(model("rotary"))], batch, ALL_LAYOUTS).layout is Layout.rows
    assert plan_batch([model("rotary"), ForwardOnly(model("rotary"))], batch, ALL_LAYOUTS).layout is Layout.rows


def test_a_configuration_of_before_that_names_the_removed_prefix_layout_means_auto() -> None:
    settings = OmegaConf.merge(OmegaConf.structured(Compute), {"layout": "prefix"})
    assert OmegaConf.to_object(settings) == Compute(layout=Layout.auto)
    assert "prefix" not in {layout.value for layout in Layout}


def test_what_each_layout_scored_is_counted_and_said_summary() -> None:
    scoring = Scoring(ALL_LAYOUTS)
    with torch.no_grad():
        for batch in (long(300, 50), long(300, 40), long(2, 300)):
            score(large(), batch, scoring)
    shared = plan_batch([large()], long(300, 50), ALL_LAYOUTS).layout.value
    assert scoring.summary() == f"{shared} for 2 of 3 batches, rows for 1"


@pytest.mark.parametrize("portion", [None, 5])
@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_in_bfloat16_autocast_logits_become_float32_before_anything_is_made_of_them(
    layout: Layout, portion: int | None
) -> None:
    network, batch, seen = tiny_transformer(vocab=VOCAB, context=CONTEXT).float(), drawn(2), list[Tensor]()

    def compute(logits: Sequence[Tensor], tokens: Tensor) -> tuple[Tensor, ...]:
        seen.append(logits[0] + 0)
        assert not torch.is_autocast_enabled("cpu")
        return logps_of_logits(logits, tokens)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = score_with([network], batch, compute, Scoring([layout], portion))
        found.sum().backward()
    logits = torch.cat(seen)
    assert logits.dtype == found.dtype == torch.float32
    assert logits.equal(logits.bfloat16().float()), "the network itself runs in bfloat16"
    assert not found.equal(found.bfloat16().float())
    assert {parameter.grad.dtype for parameter in network.parameters() if parameter.grad is not None} == {torch.float32}
    # bfloat16 rounds these logits by some hundredths.
    torch.testing.assert_close(found, score(network, batch), rtol=0, atol=0.3)
