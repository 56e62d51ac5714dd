"""Losses that compare across the prompts of a step: aot, aot_unpaired, beta_dpo."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from carried import Carried
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from losses.oracles.base import softplus
from losses.oracles.batch_coupled import splitmix
from strategies import numbers_of
from torch import Tensor

from dpo_lab.check.strategies import complete
from dpo_lab.losses import PreferenceLoss
from dpo_lab.losses.aggregates import uniforms
from dpo_lab.losses.aot import AOTLoss
from dpo_lab.losses.aot_unpaired import AOTUnpairedLoss, matched
from dpo_lab.losses.beta_dpo import BetaDPOLoss
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.records import CandidateBatch, Logps

numbers = st.floats(-20, 20, width=32)


def records(policy: Tensor, reference: Tensor | None = None, desirable: Tensor | None = None) -> tuple[Logps, CandidateBatch]:
    """Completions of one token, by their log-probabilities (k b)."""
    reference = torch.zeros_like(policy) if reference is None else reference
    policy, reference = (rearrange(of.double(), "k b -> k b 1") for of in (policy, reference))
    logps, batch = complete(policy, reference, torch.ones_like(policy, dtype=torch.bool))
    return logps, batch if desirable is None else replace(batch, desirable=desirable)


def drawn(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss: PreferenceLoss | Carried, logps: Logps, batch: CandidateBatch) -> Tensor:
    policy = logps.policy.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(replace(logps, policy=policy), batch).sum(), policy)
    return found


def permuted(logps: Logps, batch: CandidateBatch, rows: Tensor) -> tuple[Logps, CandidateBatch]:
    assert logps.reference is not None
    return Logps(logps.policy[:, rows], logps.reference[:, rows], logps.mask[:, rows]), batch.select(rows)


STEPS = [
    (AOTLoss(beta=0.5), records(drawn(2, 7), drawn(2, 7, seed=1))),
    (AOTLoss(beta=0.5), records(drawn(3, 4), drawn(3, 4, seed=1))),
    (AOTUnpairedLoss(beta=0.5), records(drawn(2, 7), drawn(2, 7, seed=1))),
    (AOTUnpairedLoss(beta=0.5), records(drawn(1, 7), desirable=torch.tensor([[True, False, False, True, False, True, False]]))),
    (BetaDPOLoss(beta=0.5), records(drawn(2, 7), drawn(2, 7, seed=1))),
]


@pytest.mark.parametrize(("loss", "step"), STEPS)
def test_the_order_of_the_prompts_in_a_step_is_of_no_matter(loss: PreferenceLoss, step: tuple[Logps, CandidateBatch]) -> None:
    rows = torch.tensor(torch.randperm(len(step[1]), generator=torch.Generator().manual_seed(3)).tolist())
    other = permuted(*step, rows)
    one, another = Carried(loss), Carried(loss)
    one.observe(*step)
    values, slopes = one(*step), gradient(one, *step)
    another.observe(*other)
    torch.testing.assert_close(another(*other), values[rows], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(another, *other), slopes[:, rows], rtol=1e-12, atol=1e-12)
    assert numbers_of(another.state) == pytest.approx(numbers_of(one.state), rel=1e-12)


# aot


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=4))
def test_aot_is_the_cheapest_matching_of_the_gaps(found: list[tuple[float, float, float, float]]) -> None:
    """Brute force over all matchings: for a convex cost the sorted one costs least."""
    columns = torch.tensor(found, dtype=torch.float64)
    policy, reference = columns[:, :2].T, columns[:, 2:].T
    ours, theirs = (policy[0] - policy[1]).tolist(), (reference[0] - reference[1]).tolist()
    least = min(
        sum(softplus(-0.2 * (a - b)) for a, b in zip(ours, order, strict=True)) for order in itertools.permutations(theirs)
    )
    assert AOTLoss(beta=0.2)(*records(policy, reference)).sum().item() == pytest.approx(least, rel=1e-9)


def test_aot_of_one_pair_is_dpo() -> None:
    step = records(drawn(2, 1), drawn(2, 1, seed=1))
    for smoothing in (0.0, 0.2):
        one, other = AOTLoss(label_smoothing=smoothing), DPOLoss(label_smoothing=smoothing)
        torch.testing.assert_close(one(*step), other(*step), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient(one, *step), gradient(other, *step), rtol=1e-12, atol=0)


def test_aot_does_not_mind_which_pair_improved() -> None:
    """The policy's gaps are the reference's, of other pairs: at the level of distributions nothing has changed."""
    reference = drawn(2, 5)
    step = records(reference[:, [3, 1, 4, 0, 2]], reference)
    torch.testing.assert_close(AOTLoss()(*step), torch.full((5,), math.log(2), dtype=torch.float64))
    assert (DPOLoss()(*step) - math.log(2)).abs().max() > 1e-3


def test_aot_adds_up_long_completions_without_losing_small_differences() -> None:
    """2048 tokens of -9 nats: two float32 sums would differ by multiples of 2e-3 only."""
    per_token = torch.full((2, 1, 2048), -9.0)
    mask = torch.ones_like(per_token, dtype=torch.bool)
    policy = per_token.clone()
    policy[0, 0, 0] += 1e-4
    logps, batch = complete(policy, per_token, mask)
    found = math.log(2) - AOTLoss(beta=100.0)(logps, replace(batch, confidence=torch.ones(1))).item()
    assert found == pytest.approx(100 * 1e-4 / 2, rel=1e-2)  # -9 + 1e-4 is off by 5e-7 itself


# aot_unpaired


@given(st.integers(1, 7), st.integers(1, 7))
def test_every_completion_is_matched_by_its_share_and_in_order(n: int, m: int) -> None:
    first, second, shares = matched(n, m)
    for count, ranks in ((n, first), (m, second)):
        totals = torch.zeros(count, dtype=torch.float64).index_add(0, ranks, shares)
        assert totals.tolist() == pytest.approx([1 / count] * count)
        assert (ranks.diff() >= 0).all()
    assert n != m or first.tolist() == second.tolist() == list(range(n))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (4, 2), (1, 5), (7, 3)])
def test_aot_unpaired_is_the_integral_over_quantiles(n: int, m: int) -> None:
    ratios, good = drawn(1, n + m), torch.arange(n + m) < n
    good = good[torch.randperm(n + m, generator=torch.Generator().manual_seed(1))]
    loss = AOTUnpairedLoss(beta=0.3)
    best, worst = ratios[0, good].sort().values.tolist(), ratios[0, ~good].sort().values.tolist()
    cells = 2 * n * m  # midpoints of a grid on which both quantile functions are constant
    integral = sum(
        softplus(-0.3 * (best[int((c + 0.5) / cells * n)] - worst[int((c + 0.5) / cells * m)])) for c in range(cells)
    )
    found = loss(*records(ratios, desirable=good[None]))
    assert found.mean().item() == pytest.approx(integral / cells, rel=1e-12)


@given(st.lists(numbers, min_size=1, max_size=5), st.booleans())
def test_a_step_of_one_kind_has_no_value_and_no_gradient_and_is_counted(ratios: list[float], good: bool) -> None:
    loss, policy = AOTUnpairedLoss(), torch.tensor([ratios])
    step = records(policy, desirable=torch.full(policy.shape, good))
    assert loss(*step).tolist() == [0.0] * len(ratios)
    assert not gradient(loss, *step).any()
    assert loss.extra_metrics(*step)["one_sided"] == 1
    both = records(torch.cat((policy, policy)))
    assert loss.extra_metrics(*both)["one_sided"] == 0


def test_pairs_count_as_their_completions() -> None:
    pairs = records(drawn(2, 4))
    good = torch.arange(8) < 4
    apart = records(rearrange(drawn(2, 4), "k b -> 1 (k b)"), desirable=good[None])
    loss = AOTUnpairedLoss()
    assert loss(*pairs).mean().item() == pytest.approx(loss(*apart).mean().item(), rel=1e-12)


# beta_dpo


def steps_of(loss: Carried, num: int, b: int = 8) -> Iterator[tuple[Logps, CandidateBatch]]:
    for seed in range(num):
        step = records(drawn(2, b, seed=seed), drawn(2, b, seed=100 + seed))
        loss.observe(*step)
        yield step


def gaps_of(step: tuple[Logps, CandidateBatch]) -> Tensor:
    chosen, rejected = step[0].logratios()
    return chosen - rejected


def test_beta_dpo_that_neither_adapts_nor_filters_is_dpo() -> None:
    for beta in (1e-6, 0.1, 100.0):
        loss = Carried(BetaDPOLoss(beta=beta, a=0.0, keep=1.0))
        for step in steps_of(loss, 3):
            torch.testing.assert_close(loss(*step), DPOLoss(beta=beta)(*step), rtol=1e-12, atol=0)
            torch.testing.assert_close(gradient(loss, *step), gradient(DPOLoss(beta=beta), *step), rtol=1e-12, atol=0)


def test_the_averages_of_beta_dpo_are_those_of_a_plain_loop() -> None:
    loss, means, deviations = Carried(BetaDPOLoss()), [], []
    for step in steps_of(loss, 5):
        means.append(gaps_of(step).mean().item())
        deviations.append(gaps_of(step).std().item())
        weights = [0.9**age for age in reversed(range(len(means)))]
        for name, found in (("mean", means), ("deviation", deviations)):
            expected = sum(w * x for w, x in zip(weights, found, strict=True)) / sum(weights)
            assert loss.state[name] == pytest.approx(expected, rel=1e-12)


def test_beta_grows_with_the_mean_gap_and_gets_no_gradient() -> None:
    loss = Carried(BetaDPOLoss(beta=0.2, a=0.5, keep=1.0))
    _, step = steps_of(loss, 2)
    gaps = gaps_of(step)
    beta = 0.2 * (1 + 0.5 * (gaps.mean().item() - float(loss.state["mean"])))
    assert abs(beta - 0.2) > 0.01, "it does move"
    assert loss.extra_metrics(*step)["beta_in_use"].item() == pytest.approx(beta)
    slopes = [-beta * torch.sigmoid(-beta * gap).item() for gap in gaps]
    assert gradient(loss, *step)[0, :, 0].tolist() == pytest.approx(slopes)


def test_beta_in_use_is_never_below_a_thousandth() -> None:
    loss = Carried(BetaDPOLoss(beta=0.2, keep=1.0))
    loss.state = {"steps": 1.0, "mean": 100.0, "deviation": 1.0}
    step = records(drawn(2, 4))
    assert loss.extra_metrics(*step)["beta_in_use"].item() == pytest.approx(1e-3)
    assert loss(*step).tolist() == pytest.approx([softplus(-1e-3 * gap) for gap in gaps_of(step).tolist()])


def test_the_mean_over_the_prompts_is_the_mean_over_the_pairs_kept() -> None:
    loss = Carried(BetaDPOLoss(keep=0.5))
    for step in steps_of(loss, 4):
        values, metrics = loss(*step), loss.extra_metrics(*step)
        kept, beta = values > 0, metrics["beta_in_use"].item()
        assert kept.sum() == 4
        assert metrics["pairs_kept"].item() == 0.5
        expected = torch.nn.functional.softplus(-beta * gaps_of(step)[kept]).mean()
        assert values.mean().item() == pytest.approx(expected.item(), rel=1e-12)


def test_pairs_unlike_the_others_are_left_out_and_others_by_their_weight() -> None:
    """Four steps' draws of 2 out of 3 pairs at 0, 1 and 3 deviations: the frequencies are those of a weighted draw."""
    loss = Carried(BetaDPOLoss(keep=2 / 3))
    loss.state = {"steps": 1.0, "mean": 0.0, "deviation": 1.0}
    gaps = torch.tensor([0.0, 1.0, 3.0])
    logps, batch = records(torch.stack((gaps, torch.zeros(3))))
    draws = 2000
    found = torch.stack([loss(logps, replace(batch, step=step)) > 0 for step in range(draws)]).double().mean(dim=0)
    weights = [math.exp(-gap * gap / 2) for gap in gaps.tolist()]
    total = sum(weights)

    def left_out(i: int) -> float:
        j, k = [other for other in range(3) if other != i]
        return sum(weights[a] / total * weights[b] / (total - weights[a]) for a, b in ((j, k), (k, j)))

    expected = [1 - left_out(i) for i in range(3)]
    assert found.tolist() == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(draws))  # four standard errors


def test_nothing_is_filtered_while_the_gaps_do_not_differ_or_before_the_first_step() -> None:
    loss, step = Carried(BetaDPOLoss()), records(drawn(2, 6))
    torch.testing.assert_close(loss(*step), DPOLoss()(*step))
    loss.observe(*records(torch.zeros(2, 6)))
    assert loss.extra_metrics(*step)["pairs_kept"] == 1


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=4), st.integers(0, 10**6))
def test_what_is_drawn_depends_on_the_prompt_and_the_step_only(ids: list[int], step: int) -> None:
    found = uniforms(torch.tensor(ids), step, 3)
    hashed = [[splitmix(splitmix(splitmix(row) + step) + number) for row in ids] for number in range(3)]
    assert found.tolist() == [[((value >> 11) + 0.5) / 2**52 for value in row] for row in hashed]
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize("options", [{"a": -1.0}, {"keep": 0.0}, {"keep": 1.5}, {"decay": 1.0}, {"a": math.nan}])
def test_settings_of_beta_dpo_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"loss.{next(iter(options))} must be"):
        BetaDPOLoss(**options)


@pytest.mark.parametrize(("loss", "step"), STEPS)
def test_an_evaluation_leaves_the_state_as_it_is(loss: PreferenceLoss, step: tuple[Logps, CandidateBatch]) -> None:
    carried = Carried(loss)
    carried.observe(*step)
    before = dict(carried.state)
    other = records(drawn(2, 3, seed=9))
    for of in (carried, carried.extra_metrics, carried.rewards):
        of(*other)
    assert carried.state == before


@pytest.mark.parametrize(("loss", "step"), STEPS)
def test_weights_of_pairs_are_refused_where_pairs_are_taken_apart(
    loss: PreferenceLoss, step: tuple[Logps, CandidateBatch]
) -> None:
    if not isinstance(loss, BetaDPOLoss):
        assert {"weighting", "margin", "divergence"} <= loss.unsupported.keys()
        assert not loss.reads_confidence
    assert loss.couples_batch
