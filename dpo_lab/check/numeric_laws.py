"""Laws of floating-point numbers, which every loss keeps."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st

from dpo_lab.check.general_laws import gradient_of, rewards
from dpo_lab.check.law import law, same, values
from dpo_lab.check.strategies import Draw, Drawn, Loss, comparisons, complete, configured, numbers_of_candidates
from dpo_lab.check.transforms import converted
from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import CandidateBatch, Logps


@st.composite
def extremes(draw: Draw, loss_class: Loss, k: tuple[int, ...]) -> Drawn:
    """Completions that are certain, or hopeless (-6e4 nats), at betas from 1e-6 to 100, in every precision."""
    loss = draw(configured(loss_class, beta=draw(st.sampled_from([1.0, 0.1, 1e-3, 1e-6, 100.0]))))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    n, b, m = (
        draw(st.sampled_from(numbers_of_candidates(loss_class, k))),
        draw(st.integers(1, 2)),
        draw(st.sampled_from([1, 3])),
    )
    totals = st.sampled_from([-1.0, 0.0, -1e-4, -30.0, -1000.0, -6e4])
    policy, reference = (
        (torch.tensor(draw(st.lists(totals, min_size=n * b, max_size=n * b))).reshape(n, b, 1) / m).expand(n, b, m).to(dtype)
        for _ in range(2)
    )
    confidence = torch.tensor(draw(st.lists(st.sampled_from([1.0, 0.5, 0.0]), min_size=b, max_size=b)))
    logps, batch = complete(policy, reference, torch.ones(n, b, m, dtype=torch.bool), confidence, seed=draw(st.integers(0, 99)))
    assert logps.kl is not None
    return loss, replace(logps, kl=logps.kl * draw(st.sampled_from([1.0, 0.0, 1e4]))), batch


@law(extremes)
def finite_at_extremes(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Values, rewards and (where the precision has them) gradients are finite at any beta and likelihood; values float32."""
    for name, tensor in (("value", values(loss, logps, batch)), ("reward", rewards(loss, logps, batch))):
        assert tensor.dtype == torch.float32, f"a {name} is {tensor.dtype}"
        assert tensor.isfinite().all(), f"a {name} is {tensor[~tensor.isfinite()][0]}"
    exact = gradient_of(loss, converted(logps, torch.float64), batch)
    gradient = gradient_of(loss, logps, batch)
    wrong = ~gradient.isfinite() & (exact.abs() < torch.finfo(gradient.dtype).max) | (~gradient.isfinite() & exact.isnan())
    assert not wrong.any(), f"a gradient is {gradient[wrong][0]}, in float64 {exact[wrong][0]:.3g}"


@st.composite
def halves(draw: Draw, loss_class: Loss, k: tuple[int, ...]) -> Drawn:
    """Log-probabilities in half precision."""
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16]))
    logps, batch = draw(comparisons(k=draw(st.sampled_from(numbers_of_candidates(loss_class, k))), uncertain=True))
    assert logps.reference is not None
    halved = complete(logps.policy.to(dtype), logps.reference.to(dtype), logps.mask, batch.confidence.float())
    return (draw(configured(loss_class)), *halved)


@law(halves)
def half_precision_is_for_storage(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Log-probabilities in half precision are computed with in float32."""
    full = converted(logps, torch.float32)
    what = "from half precision, and from the same in float32"
    same(values(loss, logps, batch), values(loss, full, batch), f"the value {what}", 0.0)
    same(rewards(loss, logps, batch), rewards(loss, full, batch), f"a reward {what}", 0.0)
