"""Many real processes at one store, some of them killed: every artifact ends whole, and no lock outlives its holder."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock

from dpo_lab.artifacts.digests import digest
from dpo_lab.artifacts.directory import verify_directory
from dpo_lab.artifacts.store import Store
from dpo_lab.pipeline.artifact_listing import list_artifacts

NUM_KEYS = 40
WORK = f"""import pathlib, random, sys, time
from dpo_lab.artifacts.store import Store
root, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
draw = random.Random(seed)

def build(number):
    def made(directory):
        for part in range(4):
            (directory / f"part-{{part}}").write_text(f"{{number}} " * 2000)
            time.sleep(0.005)
    return made

store = Store(root)
print("ready", flush=True)
while True:
    number = draw.randrange({NUM_KEYS})
    path, key = store.get("toy", {{"number": number}}, build(number))
    assert {{(path / f"part-{{part}}").read_text().split()[0] for part in range(4)}} == {{str(number)}}
    print(number, flush=True)
"""


def worker(root: Path, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORK, str(root), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_build_and_die_leave_whole_artifacts_and_free_locks(tmp_path: Path) -> None:
    draw = random.Random(0)
    workers = [worker(tmp_path, seed) for seed in range(4)]
    served = 0
    for turn in range(12):
        victim = workers.pop(0)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        served += sum(victim.stdout.readline().strip().isdecimal() for _ in range(2))
        time.sleep(0.03 * draw.random())
        victim.send_signal(signal.SIGKILL)
        _, error = victim.communicate(timeout=20)
        assert victim.returncode == -signal.SIGKILL, error
        assert error == ""
        workers.append(worker(tmp_path, 100 + turn))
    for victim in workers:
        victim.kill()
        victim.communicate(timeout=20)
    assert served > NUM_KEYS // 2
    for lock in (tmp_path / "toy").glob(".*.lock"):
        with FileLock(lock, timeout=0):
            pass
    store = Store(tmp_path)
    for number in range(NUM_KEYS):
        path, key = store.get("toy", {"number": number}, lambda d, n=number: (d / "part-0").write_text(str(n)))
        assert key == digest({"number": number})
        verify_directory(path)
        assert (path / "part-0").read_text().split()[0] == str(number)
    left = [one for one in list_artifacts(tmp_path, tmp_path) if one.left_over]
    assert left == [], "whoever asks next clears up after the killed"
