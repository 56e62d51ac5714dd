"""The training objective: the mean loss of a policy against its reference, with its gradient and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpo_lab.losses.base import PreferenceLoss, State
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.scoring.logps import Scoring, evaluating
from dpo_lab.scoring.micro_batches import largest_micro_batch, split_by_tokens, split_for_inference
from dpo_lab.training.compute import Compute
from dpo_lab.training.compute_logps import compute_logps
from dpo_lab.training.cpu_workers import Forward, accumulate_gradients, map_in_order
from dpo_lab.training.distributed import DataParallelGroup, joined
from dpo_lab.training.metrics import Tally, add_tallies, evaluation_metrics, preference_metrics
from dpo_lab.training.references.base import Reference


@dataclass
class MicroBatch:
    """Some rows of a batch, for one pass of the policy."""

    rows: Int[Tensor, " n"]
    batch: CandidateBatch


@dataclass
class StepOutputs:
    """What computing a gradient tells of the step."""

    metrics: Tally
    """Of the whole step."""
    values: Float[Tensor, " n"]
    """The loss of each prompt of the first micro-batch (or of more)."""
    logps: Logps
    """What these values were computed from."""


@dataclass
class Objective:
    """The mean loss over a batch. How the batch is split into micro-batches changes memory and time, but not the result.

    A loss whose values depend on one prompt each takes one pass: values, gradient and metrics of each micro-batch by itself.
    A loss that couples the prompts of a batch takes two, unless the batch is one micro-batch.
    """

    policy: nn.Module
    loss: PreferenceLoss
    reference: Reference | None
    compute: Compute
    scoring: Scoring = field(default_factory=Scoring)
    group: DataParallelGroup = field(default_factory=joined)
    loss_state: State = field(default_factory=dict)
    """What the loss carries from step to step; by default as before the first one."""

    def __post_init__(self) -> None:
        self.loss_state = self.loss_state or self.loss.initial_state()

    def fill_gradients(self, batch: CandidateBatch) -> StepOutputs:
        """Add the gradient of the mean loss over the batch's prompts to the policy's.

        Every process of the group is given the whole batch, passes its own rows, and ends with the whole gradient.
        """
        split = self._split(batch, self.group.rows(len(batch)))
        whole = len(split) == 1 and len(split[0]) == len(batch)
        micro_batches = [MicroBatch(rows, batch if whole else batch.select(rows)) for rows in split]
        if self.loss.couples_batch and not whole:
            outputs = self._in_two_passes(batch.to(self.compute.torch_device), micro_batches)
        else:
            outputs = self._in_one_pass(len(batch), micro_batches)
        self.group.sum_gradients(self.policy)
        return outputs

    def evaluate(self, pairs: CandidateBatch) -> dict[str, float]:
        """The metrics of training with their standard errors, over all comparisons, with the loss's state as it is."""
        return self.metrics(self.score(pairs), pairs)

    @torch.no_grad()
    def score(self, pairs: CandidateBatch) -> Logps:
        """Policy and reference on all comparisons, without dropout."""
        batch = pairs.to(self.compute.torch_device)
        limits = self.scoring.micro_batch_size, self.scoring.micro_batch_tokens
        with evaluating(self.policy):
            split = split_for_inference(pairs, *limits, self.workers)
            micro_batches = [MicroBatch(rows, pairs.select(rows)) for rows in split]
            return self._score_all(micro_batches, batch, DataParallelGroup())

    @torch.no_grad()
    def metrics(self, logps: Logps, pairs: CandidateBatch) -> dict[str, float]:
        """The metrics of comparisons that were scored."""
        batch = pairs.to(self.compute.torch_device)
        values = self.loss(logps, batch, self.loss_state)
        return evaluation_metrics(self.loss, values, logps, batch, self.loss_state)

    def rehearse(self, pairs: CandidateBatch) -> None:
        """Run the micro-batch of `evaluate` that takes the most memory."""
        self.evaluate(largest_micro_batch(pairs, self.scoring.micro_batch_size, self.scoring.micro_batch_tokens))

    @property
    def workers(self) -> int:
        """Micro-batches that run at once."""
        return self.compute.workers_for(self.policy)

    def _split(self, batch: CandidateBatch, rows: Int[Tensor, " n"]) -> list[Int[Tensor, " _"]]:
        """The rows of each micro-batch of a step."""
        size, tokens = self.scoring.micro_batch_size, self.scoring.micro_batch_tokens
        if size is not None:
            return list(rows.split(size))
        # One micro-batch where it fits, if nothing is won by more: they take a coupled loss a second pass.
        fits = tokens is None or len(split_by_tokens(batch, rows, tokens)) == 1
        if fits and (self.workers == 1 or self.loss.couples_batch):
            return [rows]
        return split_by_tokens(batch, rows, tokens, self.workers)

    def _score_one(self, micro_batch: CandidateBatch) -> Logps:
        """Policy and reference on a batch that is on the device."""
        with self.compute.autocast():
            return compute_logps(self.policy, micro_batch, self.loss, self.reference, self.scoring)

    def _in_one_pass(self, num_prompts: int, micro_batches: Sequence[MicroBatch]) -> StepOutputs:
        """Value, gradient and metrics of each micro-batch by itself."""

        def forward(micro_batch: MicroBatch) -> Forward[StepOutputs]:
            batch = micro_batch.batch.to(self.compute.torch_device)
            logps = self._score_one(batch)
            detached = _detached(logps)
            if self.loss.couples_batch:
                self.loss_state = self.loss.observe(detached, batch, self.loss_state)
            values = self.loss(logps, batch, self.loss_state)
            metrics = preference_metrics(self.loss, values.detach(), detached, batch, self.loss_state)
            return [values.sum() / num_prompts], None, StepOutputs(metrics, values.detach(), detached)

        outputs = accumulate_gradients(forward, micro_batches, self.policy, self.workers)
        total = add_tallies(each.metrics for each in outputs)
        return replace(outputs[0], metrics={name: self.group.sum(pair) for name, pair in total.items()})

    def _in_two_passes(self, batch: CandidateBatch, micro_batches: Sequence[MicroBatch]) -> StepOutputs:
        """First all log-probabilities and the loss's gradient with respect to them; then, for one micro-batch after the
        other, from there to the weights.
        """
        with torch.random.fork_rng(), torch.no_grad():  # the second pass draws the same dropout
            logps = self._score_all(micro_batches, batch, self.group)
        self.loss_state = self.loss.observe(logps, batch, self.loss_state)
        read = {name: getattr(logps, name) for name in ("policy", "kl") if getattr(logps, name) is not None}
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in read.items()}
        values = self.loss(replace(logps, **leaves), batch, self.loss_state)
        gradients = torch.autograd.grad(values.sum() / len(batch), list(leaves.values()), allow_unused=True)
        of_leaf = {name: gradient for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None}

        def forward(micro_batch: MicroBatch) -> Forward[None]:
            rows, part = micro_batch.rows, micro_batch.batch.to(self.compute.torch_device)
            again = self._score_one(part)
            outputs = [getattr(again, name)[part.mask] for name in of_leaf]
            return outputs, [gradient[:, rows][batch.mask[:, rows]] for gradient in of_leaf.values()], None

        accumulate_gradients(forward, micro_batches, self.policy, self.workers)
        values = values.detach()
        return StepOutputs(preference_metrics(self.loss, values, logps, batch, self.loss_state), values, logps)

    def _score_all(self, micro_batches: Sequence[MicroBatch], batch: CandidateBatch, group: DataParallelGroup) -> Logps:
        """Policy and reference on the whole batch, from its micro-batches here and in the group's other processes."""

        def score_one(micro_batch: MicroBatch) -> Logps:
            return self._score_one(micro_batch.batch.to(self.compute.torch_device))

        scores = list(map_in_order(score_one, micro_batches, self.workers))
        return _joined([each.rows for each in micro_batches], scores, batch, group)


def _joined(rows: Sequence[Tensor], scores: Sequence[Logps], batch: CandidateBatch, group: DataParallelGroup) -> Logps:
    """The Logps of some rows each as those of the batch, padded as the batch is."""

    def join(name: str) -> Float[Tensor, "k b m"] | None:
        parts = [getattr(logps, name) for logps in scores]
        if parts[0] is None:
            return None
        joined = parts[0].new_zeros(batch.mask.shape)
        for own, logps, part in zip(rows, scores, parts, strict=True):
            joined[:, own] = joined[:, own].masked_scatter(batch.mask[:, own], part[logps.mask])
        return group.sum(joined)  # the rows of other processes are 0 here

    mismatched = [logps.mismatched for logps in scores if logps.mismatched is not None]
    other = None if batch.mismatched is None or not mismatched else _joined(rows, mismatched, batch.mismatched, group)
    policy = join("policy")
    assert policy is not None
    return Logps(policy, join("reference"), batch.mask, join("kl"), join("collision"), other)


def _detached(logps: Logps) -> Logps:
    return replace(logps, policy=logps.policy.detach(), kl=None if logps.kl is None else logps.kl.detach())
