"""Small runs that are killed at random and started again, for as long as you like: is anything lost, does anything grow?

    python experiments/soak/soak.py --minutes 60 --folder /tmp/soak

Each job is a study of seconds on one shared artifact store, killed with SIGKILL, SIGTERM or Ctrl-C at a random moment and
started again by the same command until it is done; two jobs run at a time. Asserted of each: its weights and metrics are bit
for bit those of a run that nobody disturbed. At the end: every artifact and checkpoint whole, every lock free. Then one process
does the study again and again, and its memory and open files are looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpo_lab.artifacts.directory import DamagedError, verify_directory

WORDS = [
    *("+experiment=quickstart", "data.num_sentences=200", "model.dim=16", "model.depth=1", "model.heads=1"),
    *("base.trainer.max_steps=30", "trainer.max_steps=600", "trainer.eval_every=60", "trainer.log_every=5"),
    *("trainer.checkpoint_every=10", "trainer.batch_size=16", "evaluation.num_prompts=32", "evaluation.num_prompts_during=16"),
    *("candidates.num_prompts=40", "candidates.samples_per_prompt=4", "compute.threads=1"),
]
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SPEED = ("tokens_per_s", "pairs_per_s")


def command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "dpo_lab", *words]


def fingerprint(run: Path) -> str:
    """Of the policy's weights and of every logged number but speeds."""
    weights = (run / "policy" / "model.safetensors").read_bytes()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key not in SPEED} for row in rows]
    return hashlib.sha256(weights + json.dumps(kept, sort_keys=True).encode()).hexdigest()


def statuses(folder: Path) -> dict[Path, str]:
    return {file.parent: json.loads(file.read_text())["status"] for file in folder.rglob("run.json")}


def resumed(folder: Path) -> list[int]:
    """After which step each run was last gone on with, of those that this start has gone on with."""
    found = []
    for file in folder.rglob("run.json"):
        facts = json.loads(file.read_text())
        if facts.get("resumed_after_step") and (file.parent, facts["resumed_after_step"]) not in SEEN:
            SEEN.add((file.parent, facts["resumed_after_step"]))
            found.append(facts["resumed_after_step"])
    return found


SEEN: set[tuple[Path, int]] = set()


def until_trained(process: subprocess.Popen[str], folder: Path, wanted: bool) -> None:
    """Wait, if that is wanted, until training goes on: half of what happens before it is Python's start."""
    before = sum(file.stat().st_size for file in folder.rglob("metrics.jsonl"))
    while wanted and process.poll() is None:
        if sum(file.stat().st_size for file in folder.rglob("metrics.jsonl")) > before:
            return
        time.sleep(0.05)


def disturbed(folder: Path, words: list[str], draw: random.Random, longest: float, count: Counter[str]) -> Path:
    """Start the command until it is done, killing it on the way; the finished run."""
    name = next(word for word in words if word.startswith("name=")).removeprefix("name=")
    for attempt in range(60):
        process = subprocess.Popen(
            command(words), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
        )
        if attempt < 40 and draw.random() < 0.8:
            until_trained(process, folder / "runs" / name, draw.random() < 0.6)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.random() * longest)
            if process.poll() is None:
                number = draw.choice(SIGNALS)
                process.send_signal(number)
                count[number.name] += 1
        out, _ = process.communicate(timeout=600)
        count["starts"] += 1
        count["gone on after a step"] += sum(bool(after) for after in resumed(folder / "runs" / name))
        if process.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 130, 143):
            raise AssertionError(f"exit status {process.returncode} of {words}:\n{out}")
        done = [run for run, status in statuses(folder / "runs" / name).items() if status == "done"]
        if done:
            assert len(done) == 1, done
            return done[0]
    raise AssertionError(f"60 starts did not finish {words}")


def grown(folder: Path, times: int) -> list[tuple[float, int]]:
    """Memory (MB) and open files of one process after each of so many runs in it."""
    os.chdir(folder)
    from dpo_lab.cli.main import run_command

    found = []
    for turn in range(times):
        sys.argv = ["dpo_lab"]
        with contextlib.redirect_stdout(io.StringIO()):
            assert run_command([*WORDS, f"seed={turn}", "name=grown", "trainer.max_steps=8"]) == 0
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append((pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--folder", type=Path, default=Path("soak"))
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grown", type=int, default=40, help="runs in one process at the end")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    assert not any(given.folder.iterdir()), f"{given.folder} must be empty"
    count = Counter[str]()
    seeds = range(3)
    calm: dict[int, str] = {}
    longest = 0.0
    for seed in seeds:  # what the disturbed ones must equal
        words = [*WORDS, f"seed={seed}", f"name=calm-{seed}", "store=calm"]
        subprocess.run(command(words), cwd=given.folder, check=True, capture_output=True)
        started = time.monotonic()
        subprocess.run(command([*words, "resume=never"]), cwd=given.folder, check=True, capture_output=True)
        longest = max(longest, time.monotonic() - started)
        first, again = (fingerprint(run) for run in statuses(given.folder / "runs" / f"calm-{seed}"))
        assert first == again
        calm[seed] = first
    began = time.monotonic()
    print(f"undisturbed, a run on artifacts that are there takes up to {longest:.1f} s", flush=True)

    def job(number: int) -> bool:
        if time.monotonic() - began > 60 * given.minutes:
            return False
        draw, seed = random.Random(1000 * given.seed + number), number % len(seeds)
        store = f"store-{number % 5}"  # most find a store that others have built, or are building
        words = [*WORDS, f"seed={seed}", f"name=job-{number}", f"store={store}"]
        run = disturbed(given.folder, words, draw, 0.8 * longest, count)
        assert fingerprint(run) == calm[seed], f"{run} differs from the undisturbed run of seed {seed}"
        count["jobs"] += 1
        print(f"{(time.monotonic() - began) / 60:5.1f} min  {dict(count)}", flush=True)
        return True

    with ThreadPoolExecutor(given.at_once) as pool:
        numbers = iter(range(10**6))
        pending: list[Any] = [pool.submit(job, next(numbers)) for _ in range(given.at_once)]
        while pending:
            if pending.pop(0).result():
                pending.append(pool.submit(job, next(numbers)))
    whole = damaged = begun = held = 0
    for manifest in given.folder.rglob("manifest.json"):
        if any(part.startswith(".") for part in manifest.relative_to(given.folder).parts):
            begun += 1  # of a builder that was killed, under its temporary name
            continue
        try:
            verify_directory(manifest.parent)
            whole += 1
        except DamagedError as error:
            damaged += 1
            print(f"DAMAGED: {error}")
    for lock in given.folder.rglob("*.lock"):
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout:
            held += 1
    print(f"{(time.monotonic() - began) / 60:.1f} minutes: {dict(count)}")
    print(
        f"artifacts, checkpoints and policies: {whole} whole, {damaged} damaged; {begun} begun by the killed; {held} locks held"
    )
    growth = grown(given.folder, given.grown)
    for turn in sorted({0, len(growth) // 4, len(growth) // 2, 3 * len(growth) // 4, len(growth) - 1}):
        print(f"after {turn + 1:3} runs in one process: {growth[turn][0]:7.1f} MB, {growth[turn][1]} open files")
    assert damaged == held == 0


if __name__ == "__main__":
    main()
