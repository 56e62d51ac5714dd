"""Two processes that share a step take exactly the step of one process with two micro-batches."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trainers
from processes import ENVIRONMENT
from trainers import Trained, trained

WORKER = """
import pickle, sys
import torch, torch.distributed as dist
from trainers import trained
rank, world, rendezvous, result = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
found = {name: trained(name, None) for name in sys.argv[5:]}
dist.destroy_process_group()
pickle.dump(found, open(result, "wb"))
"""
LOSSES_TRIED = ["dpo", "sft", "coupled"]


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Trained]]:
    folder = tmp_path_factory.mktemp("ranks")
    results = [folder / f"{rank}.pickle" for rank in range(2)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), "2", str(folder / "rendezvous"), str(results[rank]), *LOSSES_TRIED],
            cwd=Path(trainers.__file__).parent,
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [worker.communicate(timeout=240)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(ended)[-3000:]
    return [pickle.loads(Path(result).read_bytes()) for result in results]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES_TRIED)
def test_two_ranks_are_one_rank_with_two_micro_batches(name: str, of_two_ranks: list[dict[str, Trained]]) -> None:
    alone = trained(name, micro_batch_size=2)
    for found in of_two_ranks:
        weights, metrics, state = found[name]
        assert all(torch.equal(weights[key], alone[0][key]) for key in alone[0]), "bit for bit"
        assert [step == pytest.approx(other, rel=1e-6) for step, other in zip(metrics, alone[1], strict=True)] == [True] * 3
        assert state == alone[2]
