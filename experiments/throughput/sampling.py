"""Tokens per second of `dpo_lab.models.generation.sample` and of x-transformers' generate,
the same weights in one process, interleaved.

    OMP_NUM_THREADS=1 python experiments/throughput/sampling.py [--rounds 5]

The network is that of experiment imdb_sentiment, fitted for a moment on random words whose texts end after 17 tokens on
average. Counted are sampled tokens up to and including the end token; what a row is run for after its end is not.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from x_transformers import AutoregressiveWrapper

from dpo_lab.models.generation import sample
from dpo_lab.models.transformer import FeedForward, TransformerPolicy, TransformerSpec
from dpo_lab.seeding import stream

VOCAB, END, MAX_TOKENS, MEAN_LENGTH = 2010, 0, 22, 17
ROWS = 1024
Counted = Callable[[], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions; the median counts")
    rounds = parser.parse_args().rounds
    logging.basicConfig(level=logging.INFO)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    model = fitted()
    for name, lengths in {"prompts of 4 tokens": [4], "prompts of 2 to 8": range(2, 9), "prompts of 24": [24]}.items():
        prompts = [torch.randint(1, VOCAB, (lengths[i % len(lengths)],)) for i in range(ROWS // 8)] * 8
        rates = interleaved(
            {
                "wrapper, 256 rows at once": lambda prompts=prompts: wrapper(model, prompts, 256),
                "wrapper, 1024 rows": lambda prompts=prompts: wrapper(model, prompts, 1024),
                "ours": lambda prompts=prompts: ours(model, prompts),
            },
            rounds,
        )
        best = max(rate for way, rate in rates.items() if way != "ours")
        print(f"\n{name}, {ROWS} rows, up to {MAX_TOKENS} tokens each")
        for way, rate in rates.items():
            print(f"  {way:28}{rate:9,.0f} tokens/s {rate / best:6.2f} x")


def fitted() -> TransformerPolicy:
    """The experiment's network, knowing little more than how often a text ends."""
    torch.manual_seed(0)
    model = TransformerSpec(depth=2, context=48, feedforward=FeedForward.relu2).build(VOCAB)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        tokens = torch.randint(1, VOCAB, (32, 47)).masked_fill_(torch.rand(32, 47) < 1 / MEAN_LENGTH, END)
        loss = F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def ours(model: TransformerPolicy, prompts: list[Tensor]) -> int:
    longest = max(map(len, prompts))
    tokens = torch.stack([F.pad(row, (0, longest - len(row))) for row in prompts])
    mask = torch.arange(longest) < torch.tensor([len(row) for row in prompts])[:, None]
    _, drawn = sample(model, tokens, mask, MAX_TOKENS, end=END, streams=stream(0, "benchmark").branches(len(tokens)))
    return int(drawn.sum())


def wrapper(model: TransformerPolicy, prompts: list[Tensor], rows_at_once: int) -> int:
    """Sorted by length, as whoever wants it fast would, and without the top-k filter that it has by default."""
    generate = AutoregressiveWrapper(model.net, pad_value=1).generate  # END as padding would count as the end of its prompt
    total = 0
    prompts = sorted(prompts, key=len)
    for start in range(0, len(prompts), rows_at_once):
        rows = prompts[start : start + rows_at_once]
        given = torch.stack(rows) if len({len(row) for row in rows}) == 1 else rows
        out = generate(given, MAX_TOKENS, eos_token=END, filter_logits_fn=lambda logits: logits, cache_kv=True)
        ended = (out == END).cumsum(dim=1)
        total += int(((ended == 0) | ((ended == 1) & (out == END))).sum())
    return total


def interleaved(ways: dict[str, Counted], rounds: int) -> dict[str, float]:
    """Each way's median rate."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, run in ways.items():
            start = time.process_time()
            tokens = run()
            if turn:  # the first is to warm up
                rates[way].append(tokens / (time.process_time() - start))
    return {way: statistics.median(of) for way, of in rates.items()}


if __name__ == "__main__":
    main()
