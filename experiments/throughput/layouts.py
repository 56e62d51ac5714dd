"""CPU milliseconds of forward and backward in each layout: `OMP_NUM_THREADS=1 python -m experiments.throughput.layouts`."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import torch

from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.scoring.layouts import ALL_LAYOUTS, plan_batch
from dpo_lab.scoring.logps import Scoring, score
from experiments.throughput.benchmark.cases import Case

ROUNDS = 5
NETWORK = TransformerSpec(name="transformer", dim=256, depth=6, heads=8, context=1024)
SMALL = replace(NETWORK, depth=2, heads=4)
# (network, prompts and lengths, candidates of a prompt)
POINTS = (
    (NETWORK, Case("4 x 2, 256/256", prompt=256, completion=256, vocab=4096, pairs=4), 2),
    (NETWORK, Case("16 x 2, 100/60", prompt=100, completion=60, vocab=4096, pairs=16), 2),
    (NETWORK, Case("16 x 2, 60/30", prompt=60, completion=30, vocab=4096, pairs=16), 2),
    (NETWORK, Case("16 x 2, 20/20", prompt=20, completion=20, vocab=4096, pairs=16), 2),
    (replace(NETWORK, dim=512, depth=4), Case("8 x 4, 30/30", prompt=30, completion=30, vocab=2000, pairs=8), 4),
    (replace(SMALL, dim=128), Case("32 x 8, 2/12", prompt=2, completion=12, vocab=2000, pairs=32), 8),
    (replace(SMALL, dim=64), Case("32 x 2, 8/8", prompt=8, completion=8, vocab=100, pairs=32), 2),
)


def main() -> None:
    torch.set_num_threads(1)
    for spec, case, candidates in POINTS:
        model, batch = spec.build(case.vocab).eval(), case.draw(seed=0, candidates=candidates)
        taken: dict[str, list[float]] = {layout.value: [] for layout in ALL_LAYOUTS}
        for turn in range(ROUNDS + 1):
            for layout in ALL_LAYOUTS:
                model.zero_grad()
                began = time.process_time()
                score(model, batch, Scoring((layout,))).sum().backward()
                if turn:
                    taken[layout.value].append(1000 * (time.process_time() - began))
        medians = ", ".join(f"{name} {median(times):,.0f}" for name, times in taken.items())
        print(
            f"{spec.depth} x {spec.dim}, {case.name}: {medians}; auto: {plan_batch([model], batch, ALL_LAYOUTS).layout.value}"
        )


if __name__ == "__main__":
    main()
