"""Micro-batches side by side: each on a thread of its own, with its share of the threads of a matrix product.

One large product keeps all cores busy; what lies between the products of a step does not, so two micro-batches on one core each
take less time than the same two after each other on both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

A = TypeVar("A")
B = TypeVar("B")

Descent = tuple[Sequence[Tensor], Sequence[Tensor] | None, B]
"""Outputs, the gradient with respect to them (None: they are scalars, and it is 1), and what else was found."""


def in_order(work: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """`work` of each item, in the order of the items; so many are under way at once."""
    if workers == 1:
        yield from map(work, items)
        return
    pool = _pool(workers, max(torch.get_num_threads() // workers, 1))
    grad = torch.is_grad_enabled()  # each thread has its own

    def run(item: A) -> B:
        with torch.set_grad_enabled(grad):
            return work(item)

    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(run, item))
            if len(waiting) > workers:  # one more than run, so that none waits for the first to be taken
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for left in waiting:
            left.cancel()


def descend(work: Callable[[A], Descent[B]], items: Iterable[A], module: nn.Module, workers: int) -> list[B]:
    """Add the gradients of all items to those of the module's parameters, always in the order of the items.

    With several workers each has gradients of its own until they are added.
    """
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def alone(item: A) -> B:
        outputs, grads, found = work(item)
        torch.autograd.backward(outputs, grads)
        return found

    def beside_others(item: A) -> tuple[Sequence[Tensor | None], B]:
        outputs, grads, found = work(item)
        return torch.autograd.grad(outputs, weights, grads, allow_unused=True), found

    if workers == 1:
        return list(in_order(alone, items, 1))
    results = []
    for gradients, found in in_order(beside_others, items, workers):
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        results.append(found)
    return results


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "micro-batch", initializer=torch.set_num_threads, initargs=(threads,))
