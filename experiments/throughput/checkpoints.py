"""How long training stands still for a checkpoint that it waits for, and for one that is written beside it.

OMP_NUM_THREADS=1 python experiments/throughput/checkpoints.py
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.training.checkpoints import Checkpoints
from dpo_lab.training.train_state import optimizer_state, prefixed, weights_of

EVERY = 10
"""Steps a checkpoint."""
CASES = ((128, 4, 2000, 32, 7), (256, 6, 4096, 64, 5))
"""Width, depth, vocabulary, tokens a row (of 16), rounds."""


def main() -> None:
    """Three ways, interleaved, in one process."""
    torch.set_num_threads(1)
    for dim, depth, vocab, length, rounds in CASES:
        torch.manual_seed(0)
        model = TransformerSpec(dim=dim, depth=depth, heads=dim // 32, context=256).build(vocab)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        tokens = torch.randint(vocab, (16, length))

        def step(model=model, optimizer=optimizer, tokens=tokens) -> None:
            optimizer.zero_grad()
            model(tokens).logsumexp(-1).mean().backward()
            optimizer.step()

        step()
        kept = Checkpoints(Path(tempfile.mkdtemp(dir=".")), "measured", print)
        seconds: dict[str, list[float]] = {"none": [], "waited for": [], "beside": []}
        stalls: dict[str, list[float]] = {"waited for": [], "beside": []}
        for _ in range(rounds):
            for way in seconds:
                began = time.perf_counter()
                if way != "none":
                    count = (kept.step or 0) + 1
                    state = prefixed("optimizer", optimizer_state(model, [optimizer]))
                    kept.save("last", count, weights_of(model), state, lambda directory: None, {})
                    if way == "waited for":
                        kept.finish()
                    stalls[way].append(time.perf_counter() - began)
                for _ in range(EVERY):
                    step()
                seconds[way].append(time.perf_counter() - began)
                kept.finish()
        shutil.rmtree(kept.root)
        each = {way: statistics.median(found) for way, found in seconds.items()}
        size = sum(parameter.numel() for parameter in model.parameters())
        print(f"{size / 1e6:.2f} M parameters, step {each['none'] / EVERY * 1e3:.0f} ms", flush=True)
        for way, found in stalls.items():
            stall = statistics.median(found) / each["none"] * EVERY
            print(
                f"  {way}: {stall:.3f} steps; {EVERY} steps with one {each[way] / each['none']:.3f} of those without",
                flush=True,
            )


if __name__ == "__main__":
    main()
