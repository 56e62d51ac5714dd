"""A preference loss of a policy against its reference: its gradient and its value, in portions that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpo_lab.losses.base import PreferenceLoss, State
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.scoring.logps import Scoring, evaluating
from dpo_lab.scoring.micro_batches import by_tokens, largest_portion, without_gradients
from dpo_lab.training.compute import Compute
from dpo_lab.training.compute_logps import measure
from dpo_lab.training.cpu_workers import Descent, descend, in_order
from dpo_lab.training.distributed import Ranks
from dpo_lab.training.metrics import Tally, added, evaluation_metrics, preference_metrics
from dpo_lab.training.references.base import Reference

OnFirst = Callable[[Tensor, Logps], None]
"""Is shown the first values of a step, and the log-probabilities behind them."""


Part = tuple[Tensor, CandidateBatch]
"""Row numbers, and those rows of the step's batch."""


@dataclass
class Objective:
    """What training descends. How a step is cut into micro-batches changes memory and time, nothing else."""

    policy: nn.Module
    loss: PreferenceLoss
    reference: Reference | None
    compute: Compute
    micro_batch_size: int | None = None
    """Prompts in one pass, in an evaluation too; None: all."""
    micro_batch_tokens: int | None = None
    """Tokens instead, see `portions`."""
    ranks: Ranks = field(default_factory=Ranks)
    scoring: Scoring = field(default_factory=Scoring)
    loss_state: State = field(default_factory=dict)
    """What the loss carries from step to step; by default as before the first one."""

    def __post_init__(self) -> None:
        self.loss_state = self.loss_state or self.loss.initial_state()

    def fill_gradients(self, batch: CandidateBatch, on_first: OnFirst | None = None) -> Tally:
        """Add the gradient of the mean loss over the batch's prompts to the policy's; the metrics of the batch.

        With several ranks each is given the whole batch, and each ends with the whole gradient.
        """
        mine = self.ranks.rows(len(batch))
        rows = self._portions(batch, mine)
        parts = [batch] if len(mine) == len(batch) and len(rows) == 1 else [batch.select(chosen) for chosen in rows]
        if self.loss.couples_batch and parts[0] is not batch:
            tally = self._in_two_passes(batch.to(self.compute.torch_device), list(zip(rows, parts, strict=True)), on_first)
        else:
            tally = self._in_one_pass(len(batch), parts, on_first)
        self.ranks.sum_gradients(self.policy)
        return tally

    def _portions(self, batch: CandidateBatch, mine: Int[Tensor, " n"]) -> list[Int[Tensor, " _"]]:
        """Rows of each micro-batch."""
        if self.micro_batch_size is not None:
            return list(mine.split(self.micro_batch_size))
        if self.workers == 1 or self.loss.couples_batch:
            whole = [mine] if self.micro_batch_tokens is None else by_tokens(batch, mine, self.micro_batch_tokens)
            if self.workers == 1 or len(whole) == 1:  # in portions a loss that couples the batch would need a second pass
                return whole
        return by_tokens(batch, mine, self.micro_batch_tokens, self.workers)

    @property
    def workers(self) -> int:
        """Micro-batches that are under way at once."""
        return self.compute.workers_for(self.policy)

    def _in_one_pass(self, count: int, parts: Sequence[CandidateBatch], on_first: OnFirst | None) -> Tally:
        """Value, gradient and metrics of each part by itself."""

        def work(part: CandidateBatch) -> Descent[tuple[Tally, Tensor, Logps]]:
            part = part.to(self.compute.torch_device)
            logps = self.measured(part)
            if self.loss.couples_batch:
                self.loss_state = self.loss.observe(_detached(logps), part, self.loss_state)
            values = self.loss(logps, part, self.loss_state)
            seen = _detached(logps)
            tally = preference_metrics(self.loss, values.detach(), seen, part, self.loss_state)
            return [values.sum() / count], None, (tally, values.detach(), seen)

        found = descend(work, parts, self.policy, self.workers)
        if on_first is not None:
            on_first(*found[0][1:])
        return {name: self.ranks.sum(pair) for name, pair in added([tally for tally, _, _ in found]).items()}

    def evaluate(self, pairs: CandidateBatch) -> dict[str, float]:
        """The metrics of training and their standard errors, over all the given comparisons, with the loss's state as it is."""
        return self.judged(self.scored(pairs), pairs)

    @torch.no_grad()
    def judged(self, logps: Logps, pairs: CandidateBatch) -> dict[str, float]:
        batch = pairs.to(self.compute.torch_device)
        values = self.loss(logps, batch, self.loss_state)
        return evaluation_metrics(self.loss, values, logps, batch, self.loss_state)

    @torch.no_grad()
    def scored(self, pairs: CandidateBatch) -> Logps:
        """Policy and reference on all the given comparisons."""
        batch = pairs.to(self.compute.torch_device)
        with evaluating(self.policy):
            portions = without_gradients(pairs, self.micro_batch_size, self.micro_batch_tokens, self.workers)
            parts = [(rows, pairs.select(rows)) for rows in portions]
            return self._joined(parts, batch, Ranks(alone=True))

    def rehearse(self, pairs: CandidateBatch) -> None:
        """The largest pass of `evaluate`, for the sake of its memory."""
        self.evaluate(largest_portion(pairs, self.micro_batch_size, self.micro_batch_tokens))

    def measured(self, batch: CandidateBatch) -> Logps:
        """Policy and reference on a batch."""
        with self.compute.autocast():
            return measure(self.policy, batch, self.loss, self.reference, self.scoring)

    def _in_two_passes(self, batch: CandidateBatch, parts: Sequence[Part], on_first: OnFirst | None) -> Tally:
        """For a loss whose values depend on the whole step: first all log-probabilities and the loss's gradient with respect
        to them, then, micro-batch by micro-batch, from there to the weights.
        """
        with torch.random.fork_rng(), torch.no_grad():  # the second pass draws the same dropout
            logps = self._joined(parts, batch, self.ranks)
        self.loss_state = self.loss.observe(logps, batch, self.loss_state)
        inputs = {name: getattr(logps, name) for name in ("policy", "kl") if getattr(logps, name) is not None}
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
        values = self.loss(replace(logps, **leaves), batch, self.loss_state)
        if on_first is not None:
            on_first(values.detach(), logps)
        found = torch.autograd.grad(values.sum() / len(batch), list(leaves.values()), allow_unused=True)
        of_leaf = {name: grad for name, grad in zip(leaves, found, strict=True) if grad is not None}

        def work(rows_and_part: Part) -> Descent[None]:
            rows, part = rows_and_part
            part = part.to(self.compute.torch_device)
            again = self.measured(part)
            outputs = [getattr(again, name)[part.mask] for name in of_leaf]
            return outputs, [grad[:, rows][batch.mask[:, rows]] for grad in of_leaf.values()], None

        descend(work, parts, self.policy, self.workers)
        return preference_metrics(self.loss, values.detach(), logps, batch, self.loss_state)

    def _joined(self, parts: Sequence[Part], batch: CandidateBatch, ranks: Ranks) -> Logps:
        """Policy and reference on the whole batch, measured part by part, and rank by rank."""

        def work(part: CandidateBatch) -> Logps:
            return self.measured(part.to(self.compute.torch_device))

        found = in_order(work, (part for _, part in parts), self.workers)
        return _side_by_side([(rows, logps) for (rows, _), logps in zip(parts, found, strict=True)], batch, ranks)


def _side_by_side(parts: Sequence[tuple[Tensor, Logps]], batch: CandidateBatch, ranks: Ranks) -> Logps:
    """Logps of some rows each as those of the batch, as wide as the batch's own padding makes them."""

    def of(name: str) -> Float[Tensor, "k b m"] | None:
        if getattr(parts[0][1], name) is None:
            return None
        wide = getattr(parts[0][1], name).new_zeros(batch.mask.shape)
        for rows, part in parts:
            wide[:, rows] = wide[:, rows].masked_scatter(batch.mask[:, rows], getattr(part, name)[part.mask])
        return ranks.sum(wide)  # the rows of other ranks are 0 here

    mismatched = None
    if batch.mismatched is not None and parts[0][1].mismatched is not None:
        others = [(rows, part.mismatched) for rows, part in parts if part.mismatched is not None]
        mismatched = _side_by_side(others, batch.mismatched, ranks)
    policy = of("policy")
    assert policy is not None
    return Logps(policy, of("reference"), batch.mask, of("kl"), of("collision"), mismatched)


def _detached(logps: Logps) -> Logps:
    return replace(logps, policy=logps.policy.detach(), kl=None if logps.kl is None else logps.kl.detach())
