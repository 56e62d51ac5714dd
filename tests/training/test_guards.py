"""Training that goes wrong is noticed, named, and left out or ended as the settings have it; the pre-flight changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainers import comparisons, same, scored_by, trainer, transformer, twin_of, weights

from dpo_lab.losses import LOSSES
from dpo_lab.scoring.micro_batches import row_lengths
from dpo_lab.training.clipping import clip
from dpo_lab.training.compute import Compute
from dpo_lab.training.guards import MAX_SKIPPED_IN_A_ROW, Action, DivergenceError, Guard, GuardSettings, Record
from dpo_lab.training.result import Status
from dpo_lab.training.trainer import Hooks, Trainer

Steps = Callable[[int], bool]


class Seen:
    """What a guarded training reports."""

    def __init__(self) -> None:
        self.warned: list[str] = []
        self.records: dict[str, Record] = {}
        self.logged: dict[int, dict[str, float]] = {}

    def hooks(self, **more: Any) -> Hooks:
        def guarded(records: Mapping[str, Record]) -> None:
            self.records = {what: replace(record) for what, record in records.items()}

        def log(step: int, metrics: Mapping[str, float]) -> None:
            self.logged[step] = dict(metrics)

        return Hooks(log=log, warn=self.warned.append, guarded=guarded, **more)


def spoiling(fit: Trainer, steps: Steps, value: float = math.nan) -> None:
    """One parameter's gradient is no number at these steps."""
    drawn = [fit._rows(step) for step in range(fit.settings.num_steps)]
    now = [0]

    def begun(step: int) -> Tensor:
        now[0] = step + 1
        return drawn[step]

    fit.rows = begun
    victim = dict(fit.policy.named_parameters())["net.attn_layers.layers.0.1.to_q.weight"]
    victim.register_hook(lambda grad: grad * value if steps(now[0]) else grad)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("clipped", [None, 1.0])
def test_a_gradient_that_is_no_number_is_named_by_step_pairs_and_parameter(value: float, clipped: float | None) -> None:
    seen = Seen()
    fit = trainer(transformer(), comparisons(b=8), batch_size=2, max_steps=4, hooks=seen.hooks(), clip=clipped)
    spoiling(fit, lambda step: step == 3, value)
    outcome = fit.fit()
    assert (outcome.status, outcome.steps) == (Status.diverged, 2)
    ids = (100 + fit._rows(2)).tolist()
    assert f"at step 3, on the pairs with ids {ids}, first in net.attn_layers.layers.0.1.to_q.weight" in outcome.reason
    assert seen.records["grad_norm"].first_step == 3


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_skipped_step_is_as_if_it_had_not_been(waits: bool, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator too: with skip, each step is looked at before it is taken."""
    monkeypatch.setattr(Compute, "reading_waits", waits)
    data, seen = comparisons(b=8), Seen()
    policy = transformer()
    options: dict[str, Any] = {"optimizer": optimizer, "lr": 0.01}
    guards = GuardSettings(Action.skip)
    fit = trainer(policy, data, max_steps=5, hooks=seen.hooks(), guards=guards, preflight=False, **options)
    spoiling(fit, lambda step: step in (2, 3))
    assert (outcome := fit.fit()).status is Status.done
    assert outcome.steps == 5
    twin = transformer()
    other = trainer(twin, data, max_steps=3, **options)
    drawn = [other._rows(step) for step in (0, 3, 4)]
    other.rows = drawn.__getitem__
    other.fit()
    assert same(weights(policy), weights(twin))
    assert seen.records["grad_norm"].count == 2
    assert len(seen.warned) == 1, "the second time is not worth a line"
    assert "the step is left out" in seen.warned[0]
    assert all(math.isfinite(value) for metrics in seen.logged.values() for value in metrics.values())


def test_steps_left_out_for_ever_end_the_run() -> None:
    policy, seen = transformer(), Seen()
    before = weights(policy)
    fit = trainer(policy, comparisons(), max_steps=99, hooks=seen.hooks(), guards=GuardSettings(Action.skip))
    spoiling(fit, lambda step: step > 0)
    outcome = fit.fit()
    assert (outcome.status, outcome.steps) == (Status.diverged, MAX_SKIPPED_IN_A_ROW - 1)
    assert f"{MAX_SKIPPED_IN_A_ROW} steps in a row" in outcome.reason
    assert same(weights(policy), before)
    assert [text.partition("(")[2] for text in seen.warned] == ["", "for the 10th time)"]


BOUNDS = [("max_margin", "margin"), ("max_drop", "drop")]


@pytest.mark.parametrize(("field", "what"), BOUNDS)
@pytest.mark.parametrize("action", Action)
def test_beyond_a_bound_the_settings_decide(field: str, what: str, action: Action) -> None:
    """A large learning rate moves both; whatever step first is beyond the bound is told, left out, or the last."""
    guards, seen, free = GuardSettings(**{field: 0.5}, beyond=action), Seen(), Seen()
    options: dict[str, Any] = {"lr": 2.0, "max_steps": 12, "batch_size": 6}
    data, plain = comparisons(), transformer()
    if what == "drop":
        data.confidence = torch.zeros_like(data.confidence)  # the labels are wrong, and the chosen ones fall
    trainer(plain, data, hooks=free.hooks(), **options).fit()
    quantity = {
        step: metrics["rewards/margins"] if what == "margin" else metrics["ref_logps/chosen"] - metrics["logps/chosen"]
        for step, metrics in free.logged.items()
    }
    policy = transformer()
    fit = trainer(policy, data, hooks=seen.hooks(), guards=guards, **options)
    outcome = fit.fit()
    beyond = [step for step, value in quantity.items() if value > 0.5]
    assert beyond, "the bound is never reached: the test shows nothing"
    assert seen.records[what].first_step == beyond[0]
    if action is Action.stop:
        assert (outcome.status, outcome.steps) == (Status.diverged, beyond[0] - 1)
        assert f"over trainer.guards.{field}=0.5" in outcome.reason
        return
    assert outcome.status is Status.done
    assert f"{what} is" in seen.warned[0]
    assert same(weights(policy), weights(plain)) == (action is Action.warn)
    if action is Action.warn:
        assert seen.records[what].count == len(beyond)
        assert seen.records[what].value == pytest.approx(quantity[beyond[-1]], rel=1e-4)


@pytest.mark.parametrize("action", Action)
def test_an_evaluation_beyond_the_kl_is_told_or_the_last(action: Action) -> None:
    seen, kls = Seen(), iter([0.0, 1.0, 9.0, 9.5, 3.0])

    def evaluate(step: int) -> dict[str, float]:
        return {"kl": next(kls), "loss": 1.0}

    guards = GuardSettings(max_kl=5.0, beyond=action)
    fit = trainer(transformer(), comparisons(), max_steps=4, eval_every=1, hooks=seen.hooks(evaluate=evaluate), guards=guards)
    outcome = fit.fit()
    if action is Action.stop:
        assert (outcome.status, outcome.steps) == (Status.diverged, 2)
        assert "kl is 9 at step 2, over trainer.guards.max_kl=5" in outcome.reason
    else:
        assert (outcome.status, outcome.steps) == (Status.done, 4)
        assert seen.records == {"kl": Record(2, 2, 3, 9.5)}


def test_a_first_evaluation_beyond_the_kl_ends_the_run_before_any_step() -> None:
    policy, guards = transformer(), GuardSettings(max_kl=0.5, beyond=Action.stop)
    before = weights(policy)
    result = trainer(policy, comparisons(), hooks=Hooks(evaluate=lambda step: {"kl": 1.0, "loss": 1.0}), guards=guards).fit()
    assert (result.status, result.steps) == (Status.diverged, 0)
    assert same(weights(policy), before)


def test_a_guard_that_lags_finds_the_same_step_when_it_catches_up() -> None:
    numbers = [{"loss": torch.tensor([value, 1.0]), "grad_norm": torch.tensor([1.0, 1.0])} for value in (1.0, math.inf, 1.0)]
    prompt, late = Guard(GuardSettings()), Guard(GuardSettings(), lags=True)
    assert prompt.check_step(1, torch.arange(2), numbers[0], {})
    with pytest.raises(DivergenceError) as at_once:
        prompt.check_step(2, torch.arange(2), numbers[1], {})
    assert [late.check_step(step, torch.arange(2), tally, {}) for step, tally in enumerate(numbers, 1)] == [True] * 3
    with pytest.raises(DivergenceError) as lagging:
        late.catch_up()
    assert str(lagging.value) == str(at_once.value)
    assert (lagging.value.steps, late.records) == (1, prompt.records)
    assert not Guard(GuardSettings(Action.skip), lags=True).lags, "a step cannot be skipped once it is taken"


def test_what_was_noticed_is_known_after_an_interruption() -> None:
    fit = trainer(transformer(), comparisons(), max_steps=4, guards=GuardSettings(Action.skip), hooks=Seen().hooks())
    spoiling(fit, lambda step: step in (1, 4))
    fit.fit()
    again = trainer(transformer(), comparisons(), guards=GuardSettings(Action.skip))
    again.guard.restore(fit.guard.state())
    assert again.guard.records.keys() == fit.guard.records.keys() == {"grad_norm"}
    assert (again.guard.records["grad_norm"].count, again.guard.skipped_in_a_row) == (2, 1)


WRONG = [
    ({"non_finite": Action.warn}, "non_finite=warn would go on"),
    ({"max_kl": 0.0}, "max_kl must be > 0"),
    ({"max_margin": math.nan}, "max_margin must be > 0"),
    ({"max_drop": -1.0}, "max_drop must be > 0"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_bounds_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuardSettings(**fields)


def test_a_step_without_a_desirable_completion_has_not_dropped() -> None:
    """The mean over none of them is no number, and no number is beyond no bound."""
    seen, pairs = Seen(), comparisons(b=6)
    data = replace(pairs, completions=pairs.completions[:1], mask=pairs.mask[:1], desirable=torch.zeros(1, 6, dtype=torch.bool))
    guards = GuardSettings(max_drop=1e6, beyond=Action.stop)
    fit = trainer(transformer(), data, loss=LOSSES["bco"](), max_steps=2, hooks=seen.hooks(), guards=guards)
    assert fit.fit().status is Status.done
    assert seen.records == {}


def test_a_bound_on_what_is_not_measured_is_refused() -> None:
    fit = trainer(transformer(), comparisons(), loss=LOSSES["simpo"](), guards=GuardSettings(max_drop=1.0))
    fit.reference = None
    with pytest.raises(ValueError, match="max_drop is a bound on ref_logps/chosen"):
        fit.fit()
    fit = trainer(
        transformer(), comparisons(), hooks=Hooks(evaluate=lambda step: {"loss": 1.0}), guards=GuardSettings(max_kl=1.0)
    )
    with pytest.raises(ValueError, match="measure no kl"):
        fit.fit()


def test_clipping_is_torchs_to_the_bit() -> None:
    found = []
    for own in (True, False):
        model = transformer(seed=3)
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        norm = clip(model, 0.7)[0] if own else nn.utils.clip_grad_norm_(model.parameters(), 0.7)
        found.append((norm, [parameter.grad for parameter in model.parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))


# ---- Pre-flight


@pytest.mark.parametrize("loss", ["dpo", "kto", "beta_dpo", "bco"])
def test_the_preflight_changes_no_bit(loss: str) -> None:
    """Dropout draws the same, and losses that carry averages carry the same."""
    found = []
    for preflight in (False, True):
        policy, seen = transformer(dropout=0.3), Seen()
        data = comparisons(b=9).with_mismatched()
        options: dict[str, Any] = {"dropout": True, "batch_size": 4, "max_steps": 5, "micro_batch_size": 2, "lr": 0.01}
        fit = trainer(policy, data, loss=LOSSES[loss](), preflight=preflight, hooks=seen.hooks(), optimizer="adamw", **options)
        fit.fit()
        steps = [{k: v for k, v in metrics.items() if not k.endswith("_per_s")} for metrics in seen.logged.values()]
        found.append((weights(policy), steps, fit.scoring.used, fit.objective.loss_state))
    assert same(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


class Small(nn.Module):
    """A machine whose memory ends at so many tokens."""

    def __init__(self, inner: nn.Module, tokens: int) -> None:
        super().__init__()
        self.inner, self.tokens, self.max_seq_len = inner, tokens, 8
        self.error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        self.largest = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.largest = max(self.largest, tokens.numel())
        if tokens.numel() > self.tokens:
            raise self.error
        return self.inner(tokens)


def test_too_little_memory_shows_before_the_first_evaluation_and_says_what_to_lower() -> None:
    data = comparisons(b=12)
    largest = {}
    for preflight in (True, False):
        policy = Small(transformer(), 10**9)
        evaluated: list[int] = []

        def evaluate(step: int, policy: Small = policy, evaluated: list[int] = evaluated) -> dict[str, float]:
            evaluated.append(policy.largest)
            return {"loss": 1.0}

        fit = trainer(policy, data, reference=scored_by(twin_of(policy.inner)), batch_size=3, max_steps=4, preflight=preflight,
                      hooks=Hooks(evaluate=evaluate))  # fmt: skip
        fit.fit()
        largest[preflight] = (evaluated[0], policy.largest)
    assert largest[True][0] == largest[True][1] == largest[False][1], "the longest of all steps comes first"
    assert largest[False][0] == 0
    policy.tokens = largest[True][1] - 1
    fit.settings = replace(fit.settings, preflight=True)
    evaluated.clear()
    with pytest.raises(ValueError, match=r"out of memory in a step of 6 .* trainer\.micro_batch_size=1 .*checkpoint"):
        fit.fit()
    assert evaluated == []
    assert int(row_lengths(data).max()) > 0


def test_too_little_memory_for_an_evaluation_shows_in_the_preflight_and_says_what_to_lower() -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    evaluated: list[int] = []

    def evaluate(step: int) -> dict[str, float]:
        evaluated.append(step)
        return full() or {}

    fit = trainer(transformer(), comparisons(), preflight=True, hooks=Hooks(evaluate=evaluate, rehearse=full))
    with pytest.raises(ValueError, match=r"out of memory in an evaluation: set trainer\.micro_batch_tokens"):
        fit.fit()
    assert evaluated == []
    fit = trainer(transformer(), comparisons(), preflight=False, micro_batch_size=3, hooks=Hooks(evaluate=evaluate))
    with pytest.raises(ValueError, match=r"out of memory in an evaluation: lower trainer\.micro_batch_size=3"):
        fit.fit()
    assert evaluated == [0]


def test_running_out_of_memory_later_says_the_same_and_other_errors_stay() -> None:
    policy = Small(transformer(), 0)
    fit = trainer(policy, comparisons(), reference=scored_by(twin_of(policy.inner)), micro_batch_tokens=64)
    with pytest.raises(ValueError, match=r"lower trainer\.micro_batch_tokens=64"):
        fit.fit()
    policy.error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        fit.fit()
