"""CPU workers: micro-batches that run side by side, each on a thread with its share of the threads of a matrix product.

One large product keeps all cores busy, but what lies between the products of a step does not: two micro-batches on one core
each take less time than the same two after each other on both.
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

Forward = tuple[Sequence[Tensor], Sequence[Tensor] | None, B]
"""Outputs of a forward pass, the gradient with respect to each (None: the outputs are scalars, and it is 1), and a result."""


def map_in_order(work: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """`work(item)` for each item, in the order of the items, on `workers` threads."""
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
            if len(waiting) > workers:  # one more than run, so that none waits for the first result to be taken
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def accumulate_gradients(forward: Callable[[A], Forward[B]], items: Iterable[A], module: nn.Module, workers: int) -> list[B]:
    """Add the gradients of all items to those of the module's parameters, and return the items' results.

    Always in the order of the items, so that the sums have the same bits: several workers keep gradients of their own until
    it is their turn.
    """
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def backward(item: A) -> B:
        outputs, grads, result = forward(item)
        torch.autograd.backward(outputs, grads)
        return result

    def own_gradients(item: A) -> tuple[Sequence[Tensor | None], B]:
        outputs, grads, result = forward(item)
        return torch.autograd.grad(outputs, weights, grads, allow_unused=True), result

    if workers == 1:
        return list(map(backward, items))
    results = []
    for gradients, result in map_in_order(own_gradients, items, workers):
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        results.append(result)
    return results


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "micro-batch", initializer=torch.set_num_threads, initargs=(threads,))
