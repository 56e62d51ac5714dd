"""The first step's law: a policy that starts as the reference begins at the constant of its loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import Logps
from dpo_lab.training.compute import Compute


def remark_on_start(loss: PreferenceLoss, values: Float[Tensor, " b"], logps: Logps, compute: Compute, dropout: bool) -> str:
    """What is wrong with the first values of a policy that should score as its reference; "" if nothing is."""
    expected = loss.value_at_reference(len(logps.mask))
    if logps.reference is None or expected is None or not logps.mask.any():
        return ""
    furthest = float((logps.policy.detach() - logps.reference).abs().max())
    if furthest <= (1e-3 if compute.autocast_is_off else 0.25):  # nats a token; bfloat16 rounds logits that much
        return ""
    why = "Dropout is on (trainer.dropout=true)." if dropout else "Their weights or dtypes differ."
    return (
        f"the policy starts as the reference, so the first {loss.name} loss should be {expected:.4f}; it is "
        f"{float(values.mean()):.4f}, with log-probabilities up to {furthest:.3g} nats a token apart. {why}"
    )
