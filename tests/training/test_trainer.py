"""Training: what it leaves alone, what it converges to, when it stops, and what it says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor
from trainers import VOCAB, comparisons, same, scored_by, table, trainer, transformer, twin_of, weights

from dpo_lab.data.tokenizers import TOKENIZERS
from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.models.copies import freeze
from dpo_lab.models.policies import Policy
from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.scoring.logps import score
from dpo_lab.scoring.micro_batches import row_lengths
from dpo_lab.training.compute import Compute
from dpo_lab.training.optimizers import OPTIMIZERS
from dpo_lab.training.references import REFERENCES, Reference
from dpo_lab.training.result import Status, TrainResult
from dpo_lab.training.schedules import SCHEDULES
from dpo_lab.training.settings import TrainerSettings
from dpo_lab.training.trainer import Hooks

NAN = math.nan


def one_token_pairs(prompts: Tensor, chosen: Tensor, rejected: Tensor, confidence: Tensor) -> CandidateBatch:
    b = len(prompts)
    return CandidateBatch(
        prompt=prompts[:, None],
        prompt_mask=torch.ones(b, 1, dtype=torch.bool),
        completions=torch.stack((chosen, rejected))[:, :, None],
        mask=torch.ones(2, b, 1, dtype=torch.bool),
        ids=100 + torch.arange(b),
        confidence=confidence,
    )


@dataclass
class Report:
    """What a trainer reported."""

    logged: list[tuple[int, dict[str, float]]]
    saved: list[tuple[str, int]]
    warned: list[str]
    evaluated: list[int]

    def hooks(self, evaluations: Iterator[Mapping[str, float]] | None = None) -> Hooks:
        def evaluate(step: int) -> Mapping[str, float]:
            assert evaluations is not None
            self.evaluated.append(step)
            return next(evaluations)

        return Hooks(
            log=lambda step, metrics: self.logged.append((step, dict(metrics))),
            evaluate=None if evaluations is None else evaluate,
            checkpoint=lambda kind, step, metrics: self.saved.append((kind, step)),
            warn=self.warned.append,
        )


@pytest.fixture
def report() -> Report:
    return Report([], [], [], [])


# ---- Law 19: what training leaves alone, and where it starts


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("tie", [False, True])
def test_a_learning_rate_of_zero_leaves_the_weights_bit_identical(optimizer: str, tie: bool) -> None:
    policy = transformer(tie_embedding=tie)
    before = weights(policy)
    fit = trainer(policy, comparisons(), optimizer=optimizer, lr=0.0, clip=1.0)
    for built in fit.optimizers:
        for group in built.param_groups:
            group["lr"] = 0.0
            group["weight_decay"] = 0.1
    assert fit.fit().steps == 3
    assert same(weights(policy), before)


@pytest.mark.parametrize("tie", [False, True])
def test_no_change_of_the_policy_reaches_the_reference_and_every_policy_parameter_gets_a_gradient(tie: bool) -> None:
    spec = TransformerSpec(dim=8, depth=2, heads=1, context=8, tie_embedding=tie)
    torch.manual_seed(0)
    tokenizer = TOKENIZERS["word"]().train(["a b c d"])
    assert tokenizer.vocab_size == VOCAB
    base = Policy(spec, spec.build(VOCAB), tokenizer)
    policy, reference = base.copy(), freeze(base.copy())
    data = replace(comparisons(), confidence=torch.ones(6))
    before = score(reference, data)
    fit = trainer(policy, data, reference=scored_by(reference), optimizer="adamw", lr=1e-2, batch_size=6)
    fit.fit()
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters()}
    assert not [name for name, grad in gradients.items() if grad is None or not grad.abs().max() > 0]
    assert torch.equal(score(reference, data), before)
    after_training = score(policy, data)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += torch.randn_like(parameter)
    assert torch.equal(score(reference, data), before)
    assert not torch.allclose(score(policy, data), after_training, atol=0.1)
    assert all(parameter.grad is None for parameter in reference.parameters())


@pytest.mark.parametrize("name", ["dpo", "ipo"])
@pytest.mark.parametrize("tie", [False, True])
def test_the_first_loss_is_the_constant_of_the_loss(name: str, tie: bool, report: Report) -> None:
    policy, loss = transformer(tie_embedding=tie), LOSSES[name](beta=0.3)
    data = replace(comparisons(), confidence=torch.linspace(0.5, 1, 6, dtype=torch.float64))
    trainer(policy, data, loss=loss, hooks=report.hooks(), micro_batch_size=3).fit()
    assert report.logged[0][1]["loss"] == pytest.approx(loss.value_at_reference(), rel=1e-12)
    assert report.logged[1][1]["loss"] != pytest.approx(loss.value_at_reference(), rel=1e-6)
    assert report.warned == []


@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_the_run_says_once_that_dropout_moves_the_first_loss(report: Report, micro_batch_size: int | None) -> None:
    policy = transformer(dropout=0.5)
    options = {"dropout": True, "micro_batch_size": micro_batch_size, "batch_size": 6}
    trainer(policy, comparisons(), loss=LOSSES["ipo"](), hooks=report.hooks(), **options).fit()
    assert len(report.warned) == 1
    assert "the first ipo loss should be 25.0000" in report.warned[0]
    assert "Dropout is on (trainer.dropout=true)" in report.warned[0]


def test_the_run_says_that_the_policy_does_not_start_as_the_reference(report: Report) -> None:
    policy = transformer(seed=1)
    trainer(policy, comparisons(), reference=scored_by(transformer(seed=2)), hooks=report.hooks()).fit()
    assert len(report.warned) == 1
    assert "should be 0.6931" in report.warned[0]
    assert "Their weights or dtypes differ" in report.warned[0]


def test_a_policy_that_is_not_meant_to_start_as_the_reference_is_not_warned_of(report: Report) -> None:
    other = scored_by(transformer(seed=2))
    trainer(transformer(seed=1), comparisons(), reference=other, hooks=report.hooks(), starts_at_reference=False).fit()
    assert report.warned == []


def test_dropout_is_off_unless_it_is_asked_for(report: Report) -> None:
    plain, with_dropout = transformer(), transformer(dropout=0.5)
    with_dropout.load_state_dict(plain.state_dict())
    for policy in (plain, with_dropout):
        trainer(policy, comparisons()).fit()
    assert same(weights(plain), weights(with_dropout))


# ---- Law 20: accumulation


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 6, 100])
def test_micro_batches_change_neither_the_weights_nor_what_is_logged(optimizer: str, micro_batch_size: int) -> None:
    found = []
    for size in (None, micro_batch_size):
        policy, logged = transformer(), []
        hooks = Hooks(log=lambda step, metrics, logged=logged: logged.append(dict(metrics)))
        options = {"batch_size": 6, "micro_batch_size": size, "clip": 0.1}
        trainer(policy, comparisons(b=9), optimizer=optimizer, lr=0.01, hooks=hooks, **options).fit()
        found.append((weights(policy), logged))
    (whole, whole_logged), (parts, parts_logged) = found
    for name, tensor in whole.items():
        # Float64 sums in another order; Muon's five iterations run in bfloat16, whose rounding may tip.
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=2e-4 if optimizer == "muon" else 1e-9)
    for one, other in zip(whole_logged, parts_logged, strict=True):
        # Speeds differ; so may an accuracy where a margin is 0 but for rounding, as all are at the first step.
        apart = {"pairs_per_s", "tokens_per_s", "rewards/accuracies"}
        atol = 1e-2 if optimizer == "muon" else 1e-5  # counts and rewards become Python floats by way of float32
        assert {k: v for k, v in one.items() if k not in apart} == pytest.approx(
            {k: v for k, v in other.items() if k not in apart}, abs=atol
        )


# ---- Law 23: where training ends


def converged(loss: PreferenceLoss, data: CandidateBatch, lr: float, steps: int = 60) -> tuple[Tensor, Tensor]:
    """Log-ratio of chosen to rejected for each pair, under the trained policy and under the reference."""
    policy = table()
    reference = twin_of(policy)
    outcome = trainer(
        policy, data, loss=loss, reference=scored_by(reference), lr=lr, batch_size=len(data), max_steps=steps, log_every=10**6
    ).fit()
    assert outcome == TrainResult(Status.done, steps)
    with torch.no_grad():
        gaps = [score(model, data)[:, :, 0] for model in (policy, reference)]
    return gaps[0][0] - gaps[0][1], gaps[1][0] - gaps[1][1]


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_soft_labelled_dpo_ends_at_the_tilted_reference(beta: float) -> None:
    # All pairs of 4 completions of 2 prompts, P by Bradley and Terry of known rewards: one policy fits all of them exactly.
    draw = torch.Generator().manual_seed(1)
    rewards = torch.randn(2, 4, dtype=torch.float64, generator=draw)
    pairs = [(x, i, j) for x in range(2) for i in range(4) for j in range(4) if rewards[x, i] > rewards[x, j]]
    prompts, chosen, rejected = (torch.tensor(column) for column in zip(*pairs, strict=True))
    probability = torch.sigmoid(rewards[prompts, chosen] - rewards[prompts, rejected])
    data = one_token_pairs(prompts, chosen, rejected, probability)
    gap, reference_gap = converged(LOSSES["dpo"](beta=beta), data, lr=12 / beta**2)
    # p_w / p_l = (ref_w / ref_l) exp(logit(P) / beta), in logarithms. What is left to converge is under 1e-10.
    torch.testing.assert_close(gap, reference_gap + torch.logit(probability) / beta, atol=1e-6, rtol=0)


@pytest.mark.parametrize("smoothing", [0.05, 0.3])
def test_conservative_dpo_ends_where_the_odds_are_those_of_a_right_label(smoothing: float) -> None:
    row = torch.arange(3)
    data = one_token_pairs(row, row + 1, row + 2, torch.ones(3, dtype=torch.float64))
    gap, reference_gap = converged(LOSSES["dpo"](beta=0.5, label_smoothing=smoothing), data, lr=40.0)
    expected = reference_gap + math.log((1 - smoothing) / smoothing) / 0.5
    torch.testing.assert_close(gap, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("confidence", [1.0, 0.8])
def test_ipo_ends_at_a_log_ratio_gap_of_1_over_2_beta(confidence: float) -> None:
    row = torch.arange(3)
    data = one_token_pairs(row, row + 1, row + 2, torch.full((3,), confidence, dtype=torch.float64))
    gap, reference_gap = converged(LOSSES["ipo"](beta=0.25), data, lr=0.4)
    # P (g - a)^2 + (1 - P) (-g - a)^2 is least at g = (2 P - 1) a, a = 1 / (2 beta).
    torch.testing.assert_close(gap, reference_gap + (2 * confidence - 1) / (2 * 0.25), atol=1e-6, rtol=0)


# ---- One run


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_the_same_seed_gives_the_same_bits(optimizer: str) -> None:
    found = {}
    for run, seed in enumerate((1, 1, 2)):
        policy = transformer(dropout=0.3)
        fit = trainer(policy, comparisons(b=20), optimizer=optimizer, seed=seed, dropout=True)
        torch.manual_seed(100 + run)  # whatever came before does not matter
        fit.fit()
        found[run] = weights(policy)
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_a_clipped_step_is_no_longer_than_the_clip(report: Report) -> None:
    policy = transformer()
    before = weights(policy)
    trainer(policy, comparisons(), loss=LOSSES["ipo"](), lr=1.0, clip=0.01, max_steps=1, hooks=report.hooks()).fit()
    moved = math.sqrt(sum(float((tensor - before[name]).square().sum()) for name, tensor in weights(policy).items()))
    assert moved == pytest.approx(0.01, rel=1e-3)
    assert report.logged[0][1]["grad_norm"] > 0.1  # what is logged is the norm before clipping


def test_the_learning_rate_follows_the_schedule(report: Report) -> None:
    fit = trainer(table(), comparisons(), lr=0.5, max_steps=5, hooks=report.hooks())
    fit.schedule = SCHEDULES["linear"](warmup=0.4)
    fit.fit()
    assert [metrics["lr"] for _, metrics in report.logged] == pytest.approx([0.25, 0.5, 0.5, 1 / 3, 1 / 6])


def test_what_is_logged_is_the_mean_since_the_last_report() -> None:
    found = {}
    for every in (1, 3):
        logged: list[tuple[int, float]] = []
        hooks = Hooks(log=lambda step, metrics, logged=logged: logged.append((step, metrics["loss"])))
        trainer(table(), comparisons(), max_steps=5, log_every=every, hooks=hooks).fit()
        found[every] = logged
    each = [loss for _, loss in found[1]]
    assert [step for step, _ in found[3]] == [3, 5]
    assert [loss for _, loss in found[3]] == pytest.approx([sum(each[:3]) / 3, sum(each[3:]) / 2], rel=1e-6)


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_pairs(report: Report) -> None:
    policy = table()
    data = comparisons(b=8)
    reference = score(policy, data).detach()
    reference[0, 5, 0] = NAN
    data.reference = reference
    cached = Reference(REFERENCES["cached"](), policy)
    fit = trainer(policy, data, reference=cached, batch_size=2, max_steps=4, hooks=report.hooks())
    kept: list[dict[str, Tensor]] = []
    fit.hooks.log = lambda step, metrics: kept.append(weights(policy))
    outcome = fit.fit()
    assert outcome.status is Status.diverged
    assert f"loss became nan at step {outcome.steps + 1}" in outcome.reason
    assert "105" in outcome.reason
    assert outcome.reason.count(",") == 2, "only the pairs of that step are named"
    assert outcome.steps == len(kept)
    assert not kept or same(weights(policy), kept[-1]), "the weights are those of the last good step"
    assert report.saved == []


def test_a_gradient_that_is_no_number_ends_the_run() -> None:
    @dataclass
    class Cusp(PreferenceLoss):
        name: str = "cusp"

        def values(self, logps: Logps, batch: CandidateBatch, state: object) -> Float[Tensor, " b"]:
            return (logps.logratios()[0] * 0).sqrt()

    policy = table()
    before = weights(policy)
    outcome = trainer(policy, comparisons(), loss=Cusp()).fit()
    assert (outcome.status, outcome.steps) == (Status.diverged, 0)
    assert "grad_norm became nan at step 1" in outcome.reason
    assert same(weights(policy), before)


# ---- The end


@settings(max_examples=10)
@given(batch_size=st.integers(1, 5), steps=st.none() | st.integers(1, 6), pairs=st.none() | st.integers(1, 12))
def test_training_stops_at_whichever_limit_comes_first(batch_size: int, steps: int | None, pairs: int | None) -> None:
    if steps is None and pairs is None:
        return
    saved: list[tuple[str, int]] = []
    hooks = Hooks(checkpoint=lambda kind, step, metrics: saved.append((kind, step)))
    fit = trainer(table(), comparisons(), batch_size=batch_size, max_steps=steps, max_pairs=pairs, hooks=hooks)
    limits = [*([steps] if steps else []), *([math.ceil(pairs / batch_size)] if pairs else [])]
    assert fit.fit() == TrainResult(Status.done, min(limits))
    assert saved == [("last", min(limits))]


def test_training_stops_when_its_minutes_are_over(report: Report) -> None:
    fit = trainer(table(), comparisons(), max_steps=1000, max_minutes=1e-9, log_every=100, hooks=report.hooks())
    assert fit.fit().steps == 1
    assert [step for step, _ in report.logged] == [1]
    assert report.saved == [("last", 1)]


def test_evaluations_come_before_the_first_step_in_between_and_after_the_last(report: Report) -> None:
    losses = iter([{"loss": 1.0}] * 9)
    trainer(table(), comparisons(), max_steps=5, eval_every=2, hooks=report.hooks(losses)).fit()
    assert report.evaluated == [0, 2, 4, 5]


def test_dropout_is_off_in_evaluations_and_back_on_after_them(report: Report) -> None:
    policy = transformer(dropout=0.5)
    modes = []

    def evaluate(step: int) -> dict[str, float]:
        modes.append(policy.training)
        return {"loss": 1.0}

    def log(step: int, metrics: Mapping[str, float]) -> None:
        modes.append(policy.training)

    trainer(policy, comparisons(), max_steps=2, eval_every=1, dropout=True, hooks=Hooks(log=log, evaluate=evaluate)).fit()
    assert modes == [False, True, False, True, False]


BEST = [
    ("loss", [3.0, 2.0, 2.5, 1.0, 1.0], [0, 1, 3]),
    ("rewards/margins", [0.0, -1.0, 0.5, 0.5, 2.0], [0, 2, 4]),
    ("win_rate", [0.5, 0.6, 0.55, 0.7, 0.1], [0, 1, 3]),
    ("kl", [0.0, 1.0, 2.0, 0.5, -0.1], [0, 4]),
    ("loss", [3.0, NAN, 2.0, NAN, 1.0], [0, 2, 4]),
    ("win_rate", [NAN, 0.5, NAN, 0.7, 0.6], [1, 3]),
]


@pytest.mark.parametrize(("metric", "values", "best"), BEST, ids=[f"{metric}{values}" for metric, values, _ in BEST])
def test_the_best_checkpoint_is_the_best_evaluation_so_far(
    metric: str, values: list[float], best: list[int], report: Report
) -> None:
    evaluations = iter([{metric: value, "other": 0.0} for value in values])
    trainer(table(), comparisons(), max_steps=4, eval_every=1, best_metric=metric, hooks=report.hooks(evaluations)).fit()
    assert [step for kind, step in report.saved if kind == "best"] == best
    assert report.saved[-1] == ("last", 4)


def test_patience_ends_the_run_and_the_outcome_says_so(report: Report) -> None:
    losses = iter({"loss": value} for value in (3.0, 2.0, 2.5, 1.9, 2.0, 1.9, 0.1))
    fit = trainer(table(), comparisons(), max_steps=9, eval_every=1, patience=2, hooks=report.hooks(losses))
    outcome = fit.fit()
    assert (outcome.status, outcome.steps) == (Status.done, 5)
    assert [step for kind, step in report.saved if kind == "best"] == [0, 1, 3]
    assert [step for kind, step in report.saved if kind == "last"] == [1, 2, 3, 4, 5]
    assert "patience" in outcome.reason, "it ended before its limit: the outcome has to say why"


@pytest.mark.parametrize(("minutes", "max_steps", "ended"), [(1e-9, 9, 1), (1e-9, 1, 1), (1e9, 2, 2)])
def test_an_end_by_the_clock_says_so(minutes: float, max_steps: int, ended: int) -> None:
    outcome = trainer(table(), comparisons(), max_steps=max_steps, max_minutes=minutes).fit()
    early = ended < max_steps
    assert (outcome.status, outcome.steps, outcome.by_the_clock) == (Status.done, ended, early)
    assert outcome.reason == ("trainer.max_minutes=1e-09 are over" if early else ""), "the last step is no early end"


def test_the_last_steps_before_patience_runs_out_are_logged_too(report: Report) -> None:
    losses = iter({"loss": value} for value in (1.0, 2.0, 3.0))
    trainer(table(), comparisons(), max_steps=9, eval_every=1, patience=2, log_every=5, hooks=report.hooks(losses)).fit()
    assert [step for step, _ in report.logged] == [2]


def test_a_best_metric_that_nobody_evaluates_is_refused_with_those_there_are(report: Report) -> None:
    fit = trainer(table(), comparisons(), best_metric="wins", hooks=report.hooks(iter([{"kl": 0.0, "loss": 1.0}])))
    with pytest.raises(ValueError, match=r"trainer\.best_metric 'wins' is not evaluated\. Known: kl, loss"):
        fit.fit()


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_training_that_is_asked_to_stop_finishes_its_step_and_saves_it(evaluated: bool, report: Report) -> None:
    hooks = report.hooks(iter([{"loss": 1.0}] * 9) if evaluated else None)
    fit = trainer(table(), comparisons(), max_steps=9, eval_every=2 if evaluated else None, hooks=hooks)
    hooks.stop = lambda: "SIGTERM" if fit.step >= 4 else ""
    assert fit.fit() == TrainResult(Status.preempted, 4, "SIGTERM")
    assert report.saved == ([("best", 0), ("last", 2)] if evaluated else []) + [("last", 4)]
    assert report.evaluated == ([0, 2, 4] if evaluated else [])


def test_a_request_to_stop_after_the_last_step_comes_too_late(report: Report) -> None:
    hooks = report.hooks()
    hooks.stop = lambda: "SIGTERM" if fit.step >= 3 else ""
    fit = trainer(table(), comparisons(), max_steps=3, hooks=hooks)
    assert fit.fit() == TrainResult(Status.done, 3)


def test_checkpoints_come_at_evaluations_at_their_own_intervals_and_in_the_end(report: Report) -> None:
    options = {"max_steps": 11, "eval_every": 4, "checkpoint_every": 3, "keep_every": 5}
    trainer(table(), comparisons(), **options, hooks=report.hooks(iter([{"loss": 1.0}] * 9))).fit()
    assert report.saved == [("best", 0), *(("last", step) for step in (3, 4, 5, 6, 8, 9, 10, 11))]


def test_no_checkpoint_is_made_of_a_step_that_diverged(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compute, "reading_waits", True)  # as on an accelerator, whose numbers are read seldom
    data = comparisons(b=8)
    data.reference = torch.full_like(data.mask, NAN, dtype=torch.float64)
    cached = Reference(REFERENCES["cached"](), table())
    fit = trainer(table(), data, reference=cached, max_steps=4, log_every=100, checkpoint_every=1, hooks=report.hooks())
    assert fit.fit().status is Status.diverged
    assert report.saved == []


COUNTS = (
    *("batch_size", "micro_batch_size", "micro_batch_tokens", "length_window", "max_steps", "max_pairs"),
    *("log_every", "eval_every", "patience", "checkpoint_every", "keep_last", "keep_every"),
)


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [0, -3])
def test_a_count_below_one_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"trainer\.{field} must be at least 1, got {value}"):
        TrainerSettings(**{field: value})


@pytest.mark.parametrize("field", ["max_minutes", "clip"])
@pytest.mark.parametrize("value", [0.0, -1.0, NAN])
def test_a_limit_that_is_not_over_zero_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"trainer\.{field} must be > 0, got {value}"):
        TrainerSettings(**{field: value})


def test_training_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.max_steps or trainer\.max_pairs must be set"):
        TrainerSettings(max_steps=None, max_minutes=1.0)


def test_two_ways_to_cut_a_step_are_refused_together() -> None:
    with pytest.raises(ValueError, match="set one of them"):
        TrainerSettings(micro_batch_size=2, micro_batch_tokens=100)


def test_training_by_length_reads_every_row_once_an_epoch_in_batches_of_like_length() -> None:
    data = comparisons(b=12)
    seen: list[list[int]] = []
    policy = table()
    fit = trainer(policy, data, batch_size=3, max_steps=4, length_window=4)
    rows = fit._rows
    fit._rows = lambda step: seen.append(rows(step).tolist()) or rows(step)  # type: ignore[method-assign, func-returns-value]
    fit.fit()
    assert sorted(row for batch in seen for row in batch) == list(range(12))
    lengths = row_lengths(data)
    ranges = sorted((int(lengths[batch].min()), int(lengths[batch].max())) for batch in map(torch.tensor, seen))
    assert all(one[1] <= other[0] for one, other in pairwise(ranges))
