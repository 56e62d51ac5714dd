"""Do 95 % intervals hold the truth in 95 % of cases, and do the tests reject a true null no more often than they say?

    python experiments/coverage/coverage.py --save experiments/coverage

The functions that `python -m dpo_lab.compare` prints with are asked many times where the answer is known: p-values of
simulated differences (rejections.py), and intervals of policies of the synthetic language, evaluated on few prompts again and
again (truths.py).
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from rejections import LOPSIDED, families, rejections
from truths import coverage, trained

from dpo_lab.artifacts.json_files import to_line, write_atomically
from dpo_lab.artifacts.provenance import provenance
from dpo_lab.compare.study_folder import place_table

COLUMNS = ["interval or test", "seeds or pairs", "times", "promised", "found", "binomial error", "kept"]


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Intervals one by one; of tests the number of pairs with the most rejections, and all numbers together."""
    lines = [_of_interval(row) for row in rows if "held" in row]
    kinds = dict.fromkeys((row["kind"], row["test"], row["level"]) for row in rows if "rejected" in row)
    for key in kinds:
        several = [row for row in rows if "rejected" in row and (row["kind"], row["test"], row["level"]) == key]
        worst = max(several, key=lambda row: row["rejected"] / row["times"])
        sizes = sorted(row["n"] for row in several)
        total = {name: sum(row[name] for row in several) for name in ("times", "rejected")}
        lines.append(_of_test(worst, f"{worst['n']}, the worst of {sizes[0]} to {sizes[-1]}"))
        lines.append(_of_test({**worst, **total}, f"{sizes[0]} to {sizes[-1]} together"))
    return lines


def _of_interval(row: dict[str, Any]) -> list[str]:
    share, times = row["held"] / row["times"], row["times"]
    low, error, high = (math.sqrt(limit * (1 - limit) / times) for limit in (0.92, 0.95, 0.98))
    kept = 0.92 - 2 * low <= share <= 0.98 + 2 * high
    name = f"{row['metric']}, {row['what']}"
    return [name, str(row["seeds"]), str(times), "92 to 98 %", f"{share:.1%}", f"{error:.1%}", "yes" if kept else "no"]


def _of_test(row: dict[str, Any], sizes: str) -> list[str]:
    level = level_of(row["level"])
    share, error = row["rejected"] / row["times"], math.sqrt(level * (1 - level) / row["times"])
    kept = "yes" if share <= level + 3 * error else "no"
    name = f"{row['test']}, {row['kind']}, at {row['level']}"
    return [
        name,
        sizes,
        str(row["times"]),
        f"at most {level:.2%}",
        f"{share:.2%}",
        f"{error:.2%}",
        "no promise" if row["kind"] == LOPSIDED else kept,
    ]


def level_of(text: str) -> float:
    """A level as it is written: '.05', or '.05 / 29'."""
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2000, help="simulated data sets for each kind of differences and number")
    parser.add_argument("--evaluations", type=int, default=800, help="evaluations of the policies; 0: tests only")
    parser.add_argument("--prompts", type=int, default=64, help="of each evaluation")
    parser.add_argument("--policies", type=int, default=16, help="seeds trained for each beta")
    parser.add_argument("--folder", type=Path, help="keeps the trained policies, and finds them again")
    parser.add_argument("--save", type=Path, help="a folder: writes results.jsonl and the table in README.md")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if given.evaluations:
        with tempfile.TemporaryDirectory() as spare:
            world = trained((given.folder or Path(spare)).resolve(), given.policies)
            rows += coverage(world, given.evaluations, given.prompts)
    if given.times:
        rows += [*rejections(given.times), *families(given.times // 10)]
    lines = table(rows)
    for line in [COLUMNS, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, (48, 26, 7, 15, 7, 15, 4), strict=True)))
    if given.save is not None:
        place_table(given.save, COLUMNS, lines)
        facts = {name: fact for name, fact in provenance().items() if name in ("command", "git")}
        write_atomically(given.save / "results.jsonl", "".join(to_line({**facts, **row}) for row in rows))
    return int(any(line[-1] == "no" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
