"""How far the chosen reward has to lie above the rejected one: constants, lengths, scores, the data's own margins."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from losses.oracles.base import Completion, Prompt, tensors
from torch import Tensor

from dpo_lab.losses import LOSSES, PairLoss
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.margins import Margin
from dpo_lab.records import CandidateBatch, Logps

close = torch.testing.assert_close
OF_GAP = ["dpo", "discopop", "exo", "hinge", "ipo", "robust"]


def completion(ratio: float, tokens: int = 1, score: float = 0.0) -> Completion:
    """Of so many tokens, with so much log-ratio in all."""
    return Completion([ratio / tokens - 1] * tokens, [-1.0] * tokens, score=score)


def compared(chosen: Completion, rejected: Completion, **known: Any) -> tuple[Logps, CandidateBatch]:
    return tensors([Prompt([chosen, rejected], **known)])


@pytest.mark.parametrize("name", OF_GAP)
@pytest.mark.parametrize("margin", [0.8, -0.3])
def test_a_margin_is_that_much_less_reward_margin(name: str, margin: float) -> None:
    for gap in (-4.0, 0.5, 3.0):
        found = LOSSES[name](beta=0.4, margin=Margin(margin))(*compared(completion(gap), completion(0.0)))
        close(found, LOSSES[name](beta=0.4)(*compared(completion(gap - margin / 0.4), completion(0.0))))


@pytest.mark.parametrize("name", ["dpop", "apo_down"])
def test_a_margin_leaves_what_a_loss_asks_of_single_rewards_as_it_is(name: str) -> None:
    loss: PairLoss = LOSSES[name](beta=0.4)
    plain, batch = compared(completion(-1.0), completion(2.0))
    pair = loss.pairs(plain, batch)
    close(replace(loss, margin=Margin(0.8))(plain, batch), loss.per_sides(replace(pair, diff=pair.diff - 2.0))[0])


def test_the_logged_rewards_are_without_margin() -> None:
    logps, batch = compared(completion(1.0, 3), completion(-0.5, 2))
    close(DPOLoss(margin=Margin(0.7, length_penalty=0.1)).rewards(logps, batch), DPOLoss().rewards(logps, batch))


@pytest.mark.parametrize("weight", [0.25, -0.25])
def test_a_longer_chosen_completion_needs_a_smaller_gap(weight: float) -> None:
    loss = DPOLoss(beta=0.4, margin=Margin(length_penalty=weight))
    for chosen, rejected in itertools.product((1, 2, 5), repeat=2):
        found = loss(*compared(completion(1.5, chosen), completion(0.5, rejected)))
        expected = math.log1p(math.exp(-(0.4 * 1.0 - weight * (rejected - chosen))))
        assert found.item() == pytest.approx(expected, rel=1e-12)


BETA, PENALTY = 0.5, 0.3
REWARDS, REFERENCE = [1.0, -0.5, 2.0, 0.3], [0.4, 0.3, 0.2, 0.1]  # of texts of 1, 2, 3, 4 tokens


def expected_slope(policy: list[float], margin: Margin) -> Tensor:
    """Of the loss over all pairs of the four texts, labels drawn by their rewards."""
    prompts = []
    for i, j in itertools.combinations(range(4), 2):
        two = [
            Completion([math.log(policy[y])] + [0.0] * y, [math.log(REFERENCE[y])] + [0.0] * y)  # y + 1 tokens
            for y in (i, j)
        ]
        prompts.append(Prompt(two, confidence=1 / (1 + math.exp(REWARDS[j] - REWARDS[i]))))
    logps, batch = tensors(prompts)
    logps.policy.requires_grad_()
    (gradient,) = torch.autograd.grad(DPOLoss(beta=BETA, margin=margin)(logps, batch).sum(), logps.policy)
    return gradient


def test_the_length_penalty_is_that_of_r_dpo() -> None:
    """The best policy for the reward less a penalty per token is ref * exp((r - penalty * |y|) / beta).

    Its log-ratios differ by (r_w - r_l - penalty (|y_w| - |y_l|)) / beta, while labels are drawn by r_w - r_l: the loss that it
    minimises is -log sigmoid(beta gap + penalty (|y_w| - |y_l|)). Longer chosen completions need the smaller gap, for part of
    their reward is for what the penalty takes away. Public implementations differ in this sign.
    """
    tilted = [p * math.exp((r - PENALTY * (y + 1)) / BETA) for y, (p, r) in enumerate(zip(REFERENCE, REWARDS, strict=True))]
    best = [p / sum(tilted) for p in tilted]
    assert expected_slope(best, Margin(length_penalty=PENALTY)).abs().max() < 1e-12
    assert expected_slope(best, Margin(length_penalty=-PENALTY)).abs().max() > 0.05


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_odpo_asks_for_the_logarithm_of_the_difference_in_score(alpha: float) -> None:
    loss = DPOLoss(beta=0.4, margin=Margin(score=alpha))
    for difference in (0.1, 1.0, 3.0):
        found = loss(*compared(completion(1.0, score=2.0 + difference), completion(0.0, score=2.0)))
        # e^-(x - alpha log d) = e^-x d^alpha
        assert found.item() == pytest.approx(math.log1p(math.exp(-0.4) * difference**alpha), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": None}, "needs the candidates' scores"),
        ({"confidence": torch.tensor([0.9], dtype=torch.float64)}, "soft labels or ties"),
        ({"scores": torch.tensor([[1.0], [1.0]])}, "of 1 of 1 pairs it is not"),
        ({"scores": torch.tensor([[1.0], [2.0]])}, "of 1 of 1 pairs it is not"),
    ],
)
def test_odpo_takes_pairs_that_are_certain_and_that_their_scores_support(change: dict[str, Any], message: str) -> None:
    loss = DPOLoss(margin=Margin(score=1.0))
    _, batch = compared(completion(1.0, score=2.0), completion(0.0, score=1.0))
    loss.check(batch)
    with pytest.raises(ValueError, match=message):
        loss.check(replace(batch, **change))
    with pytest.raises(ValueError, match=r"loss\.label_smoothing cannot be used with loss\.margin\.score"):
        DPOLoss(margin=Margin(score=1.0), label_smoothing=0.1)


@pytest.mark.parametrize("scores", [(1.0, 1.0), (-1.0, 2.0)])
def test_a_pair_that_the_scores_do_not_support_asks_for_nothing(scores: tuple[float, float]) -> None:
    logps, batch = compared(completion(-3.0, score=scores[0]), completion(0.0, score=scores[1]))
    logps.policy.requires_grad_()
    value = DPOLoss(beta=1.0, margin=Margin(score=1.0))(logps, batch)
    (gradient,) = torch.autograd.grad(value.sum(), logps.policy)
    assert 0 <= value.item() < 1e-30
    assert gradient.abs().max() < 1e-30


def test_the_data_can_say_the_margin_of_each_prompt() -> None:
    margins, gaps = [0.0, 1.5, -0.5], [1.0, 1.0, -2.0]
    prompts = [Prompt([completion(gap), completion(0.0)], margin=m) for gap, m in zip(gaps, margins, strict=True)]
    found = DPOLoss(beta=0.4, margin=Margin(data=2.0))(*tensors(prompts))
    expected = [math.log1p(math.exp(-(0.4 * gap - 2 * m))) for gap, m in zip(gaps, margins, strict=True)]
    close(found, torch.tensor(expected, dtype=torch.float64))


def test_margins_add_up() -> None:
    data = compared(completion(1.0, 3, score=2.5), completion(0.0, 1, score=0.5), margin=0.25)
    total = 0.1 + 0.2 * (1 - 3) + 0.5 * math.log(2.0) + 2.0 * 0.25
    found = DPOLoss(beta=0.4, margin=Margin(constant=0.1, length_penalty=0.2, score=0.5, data=2.0))
    close(found(*data), DPOLoss(beta=0.4, margin=Margin(total))(*data))


@pytest.mark.parametrize("name", [*OF_GAP, "dpop", "apo_down"])
@pytest.mark.parametrize(
    "margin", [Margin(0.8), Margin(length_penalty=0.3), Margin(data=2.0)], ids=["constant", "length", "data"]
)
def test_a_wrong_label_has_the_margin_of_the_other_order(name: str, margin: Margin) -> None:
    longer, shorter = completion(1.0, 3), completion(-0.5, 1)
    wrong = LOSSES[name](beta=0.4, margin=margin)(*compared(longer, shorter, confidence=0.0, margin=0.6))
    other_way = replace(margin, constant=-margin.constant)  # the length's turns round by itself
    close(wrong, LOSSES[name](beta=0.4, margin=other_way)(*compared(shorter, longer, margin=-0.6)))


def test_every_pair_of_three_candidates_has_the_margin_of_its_lengths() -> None:
    texts = [completion(1.0, 3), completion(0.4, 1), completion(-0.6, 2)]
    loss = DPOLoss(beta=0.4, margin=Margin(0.1, length_penalty=0.2))
    pairs = [loss(*compared(*two)) for two in itertools.combinations(texts, 2)]
    close(loss(*tensors([Prompt(texts)])), torch.stack(pairs).mean(dim=0))


def test_margins_need_what_they_are_made_of() -> None:
    _, batch = compared(completion(1.0), completion(0.0))
    batch.scores = batch.margin = None
    with pytest.raises(ValueError, match="needs the candidates' scores"):
        DPOLoss(margin=Margin(score=1.0)).check(batch)
    with pytest.raises(ValueError, match=r"loss\.margin\.data needs margins in the data"):
        DPOLoss(margin=Margin(data=1.0)).check(batch)
    DPOLoss(margin=Margin(0.5, length_penalty=0.1)).check(batch)
    _, three = tensors([Prompt([completion(1.0), completion(0.0), completion(-1.0)])])
    with pytest.raises(ValueError, match=r"loss\.margin\.data is for pairs, and the data has 3"):
        DPOLoss(margin=Margin(data=1.0)).check(three)


@pytest.mark.parametrize("name", ["constant", "length_penalty", "score", "data"])
def test_a_margin_that_is_no_number_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"loss\.margin\.{name} must be finite, got nan"):
        Margin(**{name: math.nan})
