"""Every draw has numbers of its own, and they are those that its name says."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import QUICKSTART, runs_of

import dpo_lab
from dpo_lab import seeding as streams
from dpo_lab.cli.main import run_command
from dpo_lab.seeding import Item, permutation, philox, stream, streams_of_prompts, uniform

SEEDS = st.integers(-(2**63), 2**63 - 1)
ITEMS = st.one_of(
    st.integers(-3, 3), st.sampled_from(["", "1", "a", "a b"]), st.lists(st.integers(0, 3), max_size=3).map(tuple)
)
NAMES = st.tuples(SEEDS, st.sampled_from(["a", "b", "a1", ""]), st.lists(ITEMS, max_size=2).map(tuple))
few = settings(max_examples=50)

KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def test_the_bits_are_those_that_the_authors_of_philox_publish() -> None:
    counters, keys, found = (np.array(part, dtype=np.uint32).T for part in zip(*KNOWN, strict=True))
    assert philox(counters, keys).tolist() == found.tolist()


@few
@given(st.lists(NAMES, min_size=2, max_size=6, unique=True))
def test_streams_of_different_names_share_no_number(names: list[tuple[int, str, tuple[Item, ...]]]) -> None:
    numbers = [set(uniform(20, seed, purpose, *items).tolist()) for seed, purpose, items in names]
    assert len(set.union(*numbers)) == 20 * len(names)


@few
@given(NAMES, st.integers(0, 9), st.integers(0, 9), st.integers(1, 4), st.integers(0, 3))
def test_more_numbers_and_more_branches_begin_with_the_same_ones(
    name: tuple[int, str, tuple[Item, ...]], count: int, more: int, branches: int, further: int
) -> None:
    seed, purpose, items = name
    one = stream(seed, purpose, *items)
    wide = one.branches(branches + further).uniform(count + more)
    assert wide[:branches, :count].equal(one.branches(branches).uniform(count))
    assert wide[0].equal(one.uniform(count + more)[0])
    if count:
        assert len(set(wide.flatten().tolist())) == wide.numel(), "two branches share a number"


def test_numbers_are_even_in_the_unit_interval_to_the_last_bit() -> None:
    numbers = stream(3, "test").branches(400).uniform(500).flatten()
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    for digit in range(53):
        share = float((numbers * 2.0**digit % 1 >= 0.5).double().mean())
        # Of 200,000 bits, one half up to a standard deviation of .0011; 4.5 of them.
        assert abs(share - 0.5) < 0.005, digit
    neighbours = torch.corrcoef(torch.stack((numbers[:-1], numbers[1:])))[0, 1]
    assert abs(float(neighbours)) < 4.5 / len(numbers) ** 0.5


@given(SEEDS, st.integers(0, 30))
def test_a_permutation_holds_every_number_once(seed: int, count: int) -> None:
    assert sorted(permutation(count, seed, "test").tolist()) == list(range(count))


@few
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=6), st.data())
def test_a_prompts_stream_is_known_by_its_tokens_and_how_many_equal_ones_stand_before_it(
    rows: list[list[int]], data: st.DataObject
) -> None:
    def numbers(rows: list[list[int]], pad: int) -> dict[tuple[tuple[int, ...], int], list[float]]:
        prompt = torch.tensor([row + [0] * (pad - len(row)) for row in rows])
        mask = torch.arange(pad) < torch.tensor([len(row) for row in rows])[:, None]
        found: dict[tuple[tuple[int, ...], int], list[float]] = {}
        for i, (row, drawn) in enumerate(zip(rows, streams_of_prompts(0, "test", prompt, mask).uniform(3), strict=True)):
            found[tuple(row), sum(other == row for other in rows[:i])] = drawn.tolist()
        return found

    some = numbers(rows, pad=3)
    others = data.draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), max_size=3))
    assert some.items() <= numbers(data.draw(st.permutations(rows)) + others, pad=4).items()
    assert len({tuple(drawn) for drawn in some.values()}) == len(rows)


SETTINGS = {1: "seed", 2: "data.seed", 3: "base.seed", 4: "candidates.seed", 5: "evaluation.seed"}
STUDY = [*QUICKSTART, "candidates.pairing=random", "candidates.labels=bradley_terry", "trainer.length_window=2"]
DRAWN_IN_A_STUDY = {
    "language": {"synthetic.py: data.seed"},
    "sentences": {"synthetic.py: data.seed"},
    "held-out prompts": {"synthetic.py: data.seed"},
    "weights": {"fit_base.py: base.seed"},
    "fit of the base": {"fit_base.py: base.seed"},
    "prompts": {"text.py: candidates.seed", "text.py: evaluation.seed"},  # of the training and of the held-out ones
    "candidates": {"sampling.py: candidates.seed"},
    "reference_samples": {"sampling.py: evaluation.seed"},
    "partner": {"sampled.py: candidates.seed"},
    "label": {"sampled.py: candidates.seed"},
    "evaluation of a run": {"chain.py: evaluation.seed"},
    "policy": {"sampling.py: derived"},  # from the one above and the run's seed
    "order of rows": {"sampler.py: seed", "sampler.py: derived"},  # of the training, and of the base's fit
    "order of batches": {"sampler.py: seed"},
    "dropout": {"trainer.py: seed", "trainer.py: derived"},
    "trying a decoding": {"generation.py: none"},
    "trying a layout": {"self_check.py: none"},
}


def test_in_a_study_every_draw_has_a_purpose_and_a_seed_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no two of its draws share numbers, whatever its seeds are: their purposes differ, or their items."""
    found, named = defaultdict(set), streams._key

    def noted(seed: int, purpose: str, *items: Item) -> bytes:
        frame: Any = sys._getframe(1)
        while frame.f_globals.get("__name__") == "dpo_lab.seeding" or "dpo_lab" not in frame.f_code.co_filename:
            frame = frame.f_back
        setting = SETTINGS.get(seed, "derived") if seed else "none"
        found[purpose].add(f"{Path(frame.f_code.co_filename).name}: {setting}")
        return named(seed, purpose, *items)

    monkeypatch.setattr(streams, "_key", noted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dpo_lab"])
    assert run_command([*STUDY, *(f"{setting}={seed}" for seed, setting in SETTINGS.items())]) == 0
    assert found == DRAWN_IN_A_STUDY


def test_a_seed_varies_the_training_and_the_policys_samples_or_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in the samples of policies that have not moved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dpo_lab"])
    samples = []
    for words in (["seed=1"], ["seed=2"], ["seed=2", "vary=all"]):
        assert run_command([*QUICKSTART, "trainer.max_steps=1", "optimizer.lr=1e-30", "resume=never", *words]) == 0
        rows = [json.loads(line) for line in (runs_of(tmp_path)[-1] / "samples.jsonl").read_text().splitlines()]
        samples.append([[row[part] for row in rows] for part in ("prompt", "reference", "policy")])
    one, other, own = samples
    assert one[:2] == other[:2], "prompts, base policy and the reference's samples are shared"
    assert one[2] != other[2], "the same chance again"
    assert own[0] != other[0]
    assert sum(a != b for a, b in zip(one[2], other[2], strict=True)) > 8


SEEDED = re.compile(r"manual_seed|default_rng|random\.Random|np\.random\.")
OTHERWISE = {
    "check": "what laws are tried on",
    "compare": "what finished runs can tell",
    "data/packaged.py": "the files that fetch writes, whose bytes are published",
}


def test_nothing_is_seeded_but_by_a_stream() -> None:
    package = Path(dpo_lab.__file__).parent
    files = {str(file.relative_to(package)): file.read_text() for file in package.rglob("*.py")}
    seeded = {name for name, code in files.items() if SEEDED.search(code)}
    assert {name for name in seeded if not name.startswith(tuple(OTHERWISE))} == {"seeding.py"}
