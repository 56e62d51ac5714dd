"""The share of the ideal gain and its error, where the truth is known: Gaussian rewards, and an enumerated language."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dpo_lab.evaluation.frontier import IdealFrontier
from dpo_lab.evaluation.ideal import IdealShare, frontier_of, ideal_share
from dpo_lab.records import CandidateBatch

K = 8


def found_in(
    policy: torch.Tensor, logratios: torch.Tensor, reference: torch.Tensor, clusters: torch.Tensor, more: torch.Tensor | None
) -> IdealShare:
    """With `more` samples of other prompts in the frontier."""
    rewards, prompts = reference.flatten(), clusters.repeat(len(reference))
    if more is not None:
        rewards = torch.cat((rewards, more.flatten()))
        prompts = torch.cat((prompts, torch.arange(more.shape[1]).repeat(len(more)) + len(clusters)))
    return ideal_share(policy, logratios, reference, clusters, IdealFrontier(rewards, prompts))


def gaussian(generator: torch.Generator, tilt: float, other: float, prompts: int = 256, repeats: int = 1) -> IdealShare:
    """A policy whose log-ratio is tilt * centred reward + other * something else, less its log mean; prompts differ in level.

    With `repeats` every prompt comes so often, and policies are better for some prompts than for others.
    """
    clusters = torch.arange(prompts).repeat(repeats)
    mean = 3 * torch.randn(prompts, generator=generator)[clusters]
    uneven = 0.0 if repeats == 1 else 0.3 * torch.randn(prompts, generator=generator)[clusters]
    shift = torch.as_tensor(tilt + uneven)
    centred = shift + torch.randn(len(clusters), generator=generator)
    nuisance = other + torch.randn(len(clusters), generator=generator)
    logratios = shift * centred - shift**2 / 2 + other * nuisance - other**2 / 2
    reference = mean + torch.randn(K, len(clusters), generator=generator)
    return found_in(mean + centred, logratios, reference, clusters, None)


@pytest.mark.parametrize(
    ("tilt", "other", "repeats"),
    [
        pytest.param(1.0, 0.0, 1, id="the optimum"),
        pytest.param(1.0, 0.6, 1, id="a poor policy"),
        pytest.param(1.0, 0.5, 3, id="prompts that repeat"),
        pytest.param(2.6, 0.5, 1, id="extrapolated"),
    ],
)
def test_the_interval_holds_the_share_of_gaussian_rewards(tilt: float, other: float, repeats: int) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = 0.09 if repeats > 1 else 0.0  # of the tilt
    truth = tilt / math.sqrt(tilt**2 + spread + other**2)
    results = [gaussian(generator, tilt, other, repeats=repeats) for _ in range(300)]
    shares, errors = zip(*((found.share or math.nan, found.error or math.nan) for found in results), strict=True)
    covered = sum(abs(share - truth) < 1.96 * error for share, error in zip(shares, errors, strict=True)) / len(results)
    assert {found.extrapolated for found in results} == {tilt > 2}
    assert covered >= 0.92
    if tilt < 2:  # an extrapolation's error is a bound more than a spread
        assert covered <= 0.98
        assert sum(errors) / len(errors) == pytest.approx(float(torch.tensor(shares).std()), rel=0.15)  # 4 % is its own error


class Language:
    """60 prompts, each with its own chain over 4 words; every completion of 4 words with its probability and its reward."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        words = torch.tensor(list(itertools.product(range(4), repeat=4)))
        self.rewards = torch.tensor([-1.0, -0.2, 0.3, 1.0])[words].sum(dim=1).double()
        logits = torch.randn(4, 4, generator=generator) + 0.2 * torch.randn(60, 4, 4, generator=generator)
        chain = logits.log_softmax(dim=-1).double()
        first = torch.randint(4, (60,), generator=generator)
        before = torch.cat((first[:, None, None].expand(60, len(words), 1), words[:, :-1].expand(60, -1, -1)), dim=2)
        self.logp = chain[torch.arange(60)[:, None, None], before, words].sum(dim=2)
        noise = 0.7 * torch.randn(60, len(words), generator=generator).double()
        self.policy = (self.logp + 0.6 * self.rewards + noise).log_softmax(dim=1)

    def gain_and_kl(self, logp: torch.Tensor) -> tuple[float, float]:
        gain = ((logp.exp() - self.logp.exp()) * self.rewards).sum(dim=1).mean()
        return float(gain), float((logp.exp() * (logp - self.logp)).sum(dim=1).mean())

    def share(self) -> float:
        """Exactly: the frontier is the tilt, the same for every prompt, that has the policy's KL in the mean."""
        gain, kl = self.gain_and_kl(self.policy)
        low, high = 0.0, 20.0
        for _ in range(60):
            middle = (low + high) / 2
            ideal = self.gain_and_kl((self.logp + middle * self.rewards).log_softmax(dim=1))
            low, high = (low, middle) if ideal[1] > kl else (middle, high)
        return gain / ideal[0]


def test_the_interval_holds_the_share_of_an_enumerated_language() -> None:
    language, generator = Language(), torch.Generator().manual_seed(0)
    truth, inside, errors = language.share(), 0, []
    for _ in range(300):
        # Prompts drawn anew each time: every draw is a prompt of its own.
        prompts, others = torch.randint(60, (400,), generator=generator), torch.randint(60, (600,), generator=generator)
        chosen = torch.multinomial(language.policy.exp()[prompts], 1, generator=generator)[:, 0]
        logratios = (language.policy - language.logp)[prompts, chosen]
        reference, more = (
            language.rewards[torch.multinomial(language.logp.exp()[of], K, replacement=True, generator=generator).T]
            for of in (prompts, others)
        )
        found = found_in(language.rewards[chosen], logratios, reference, torch.arange(400), more)
        assert found.share is not None
        assert found.error is not None
        inside += abs(found.share - truth) < 1.96 * found.error
        errors.append(found.error)
    assert 0.92 <= inside / 300 <= 0.98
    assert sum(errors) / len(errors) < 0.1 * truth  # and is no interval that holds everything


def test_the_gain_is_over_all_samples_of_the_reference() -> None:
    generator, clusters = torch.Generator().manual_seed(0), torch.arange(100)
    reference, logratios = torch.randn(K, 100, generator=generator), 1 + torch.randn(100, generator=generator)
    found = found_in(reference[0] + 1, logratios, reference, clusters, None)
    ideal = IdealFrontier(reference.flatten(), clusters.repeat(K)).at(float(logratios.double().mean())).reward
    assert found.share == pytest.approx(float(reference[0].mean() + 1 - reference.mean()) / ideal, rel=1e-5)


def test_an_extrapolation_from_where_the_frontier_is_flat_is_nearly_as_unsure_as_the_root_is_wide() -> None:
    # Of two rewards the better one has probability .1: at log 10 = 2.3 nats there is nothing more to gain.
    generator, clusters = torch.Generator().manual_seed(0), torch.arange(400)
    reference = (torch.rand(100, 400, generator=generator) < 0.1).float()  # so many that centring blurs the levels little
    logratios = 6 + torch.randn(400, generator=generator)
    found = found_in(torch.ones(400), logratios, reference, clusters, None)
    assert found.extrapolated
    assert found.share is not None
    assert found.error is not None
    assert found.error > 0.3 * found.share * math.log(6 / math.log(10))


def test_a_kl_that_cannot_be_told_from_zero_has_no_share() -> None:
    rewards, clusters = torch.randn(K, 100, generator=torch.Generator().manual_seed(0)), torch.arange(100)
    noise = torch.randn(100, generator=torch.Generator().manual_seed(1))
    noise -= noise.mean()
    error = float(noise.std()) / 10
    for standard_errors, there in ((1.9, False), (2.1, True)):
        found = found_in(rewards[0] + 1, noise + standard_errors * error, rewards, clusters, None)
        assert (found.share is not None) == there
        assert ("within 2 standard errors of 0" in found.reason) == (not there)


def test_one_prompt_few_samples_or_equal_rewards_have_no_share_and_a_reason() -> None:
    ratios, clusters = 1 + 0.1 * torch.randn(50, generator=torch.Generator().manual_seed(1)), torch.arange(50)
    equal = found_in(torch.zeros(50), ratios, torch.zeros(K, 50), clusters, None)
    assert equal.share is None
    assert "same reward" in equal.reason
    rewards = torch.randn(K, 50, generator=torch.Generator().manual_seed(2))
    few = found_in(rewards[0, :20], ratios[:20], rewards[:, :20], clusters[:20], None)
    assert few.share is None
    assert few.reason == "160 samples are too few for the ideal frontier"
    one = found_in(rewards[0], ratios, rewards, torch.zeros(50, dtype=torch.long), None)
    assert one.share is None
    assert "one held-out prompt" in one.reason


def test_the_frontier_numbers_prompts_alike_in_all_its_samples() -> None:
    def samples(prompts: list[int], scores: list[list[float]]) -> CandidateBatch:
        k, b = len(scores), len(prompts)
        ones = torch.ones(k, b, 1, dtype=torch.bool)
        return CandidateBatch(
            prompt=torch.tensor(prompts)[:, None],
            prompt_mask=ones[0],
            completions=ones.long(),
            mask=ones,
            ids=torch.arange(b),
            confidence=torch.ones(b),
            scores=torch.tensor(scores),
        )

    frontier, clusters = frontier_of(samples([7, 5], [[1.0, 2.0], [3.0, 4.0]]), samples([5], [[6.0], [8.0], [0.0]]))
    assert clusters.tolist() == [0, 1]
    assert frontier.prompts.tolist() == [0, 1, 0, 1, 1, 1, 1]
    assert frontier.centred[[1, 3, 4, 5, 6]].tolist() == pytest.approx([c * math.sqrt(5 / 4) for c in (-2, 0, 2, 4, -4)])
