"""Useful operations of a step, and the machine's peak: the fastest matrix product."""

from __future__ import annotations

import time

import torch

from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import ForwardCost
from dpo_lab.training.compute import Compute, Precision
from experiments.throughput.benchmark.timing import synchronise

SHAPES = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 1024))
ON_GPU = ((4096, 4096, 4096), (8192, 8192, 8192))
SECONDS = 0.2
"""For each shape."""


def useful_operations(batch: CandidateBatch, work: ForwardCost, head: int) -> float:
    """Multiplications and additions that a step cannot do without: each prompt once, no padding, no reference.

    `head` is the number of weights of the head. The backward pass counts as two forward passes.
    """
    prompts = batch.prompt_mask.sum(dim=1).double()
    completions = batch.mask.sum(dim=-1).double()
    read = (completions - 1).clamp(min=0)  # the last token is predicted, never read
    tokens = prompts.sum() + read.sum()
    attended = (prompts * (prompts + 1) / 2).sum() + (read * prompts + read * (read + 1) / 2).sum()
    forward = work.per_token * tokens + work.per_pair * attended + head * completions.sum()
    return float(2 * 3 * forward)


def peak_of_matmul(compute: Compute) -> float:
    """Operations a second in the fastest of several matrix products, in the precision of the forward pass."""
    device = compute.torch_device
    dtype = torch.float32 if compute.precision is Precision.fp32 else torch.bfloat16
    best = 0.0
    for n, m, k in ON_GPU if device.type == "cuda" else SHAPES:
        one, other = torch.randn(n, k, device=device, dtype=dtype), torch.randn(k, m, device=device, dtype=dtype)
        out = one @ other
        ends = time.perf_counter() + SECONDS
        while time.perf_counter() < ends:
            synchronise(device)
            began = time.perf_counter()
            torch.mm(one, other, out=out)
            synchronise(device)
            best = max(best, 2.0 * n * m * k / (time.perf_counter() - began))
    return best
