"""The table at the end of a run: every number with its standard error, bounds and extrapolations marked."""

from __future__ import annotations

from typing import Any

from dpo_lab.pipeline.report import _notes, _rows

SUMMARY: dict[str, Any] = {
    "kl": 3.6,
    "kl_se": 0.06,
    "reward/policy": 2.5,
    "reward/policy_se": 0.071,
    "reward/reference": 0.1,
    "reward/reference_se": 0.0004,
    "positive/policy": 0.913,
    "positive/policy_se": 0.012,
    "win_rate": 0.88,
    "ideal_share": 0.78,
    "ideal_share_se": 0.021,
    "ideal_extrapolated": False,
    "best_of_n": [
        {"n": 2, "kl_bound": 0.193, "kl": 0.193, "kl_se": 0.0, "reward": 1.0, "reward_se": 0.05},
        {"n": 4, "kl_bound": 0.636, "kl": 0.411, "kl_se": 0.02, "reward": 1.5},
        {"n": 8, "kl_bound": 1.204, "kl": 1.204, "reward": 2.0},
    ],
}


def test_the_table_shows_values_with_errors_and_bounds_as_bounds() -> None:
    assert _rows(SUMMARY) == [
        ["reference", "0", "+0.10±<0.01", "", "", "50 %"],
        ["best of 2", "at most 0.19", "+1.00±0.05", "", "", ""],
        ["best of 4", "0.41±0.02", "+1.50", "", "", ""],
        ["best of 8", "at most 1.20", "+2.00", "", "", ""],
        ["policy", "3.60±0.06", "+2.50±0.07", "", "91±1 %", "88 %"],
    ]


def test_an_extrapolated_share_is_marked_and_a_missing_one_explained() -> None:
    assert "78 ± 2 % of the ideal gain in training reward at 3.60 nats" in _notes(SUMMARY)
    starred = _notes(SUMMARY | {"ideal_extrapolated": True})
    assert "78 ± 2 %* of the ideal gain in training reward at 3.60 nats" in starred
    assert any(line.startswith("* ") and "extrapolated" in line for line in starred)
    none = _notes(SUMMARY | {"ideal_share": None, "ideal_share_reason": "KL is within 2 standard errors of 0"})
    assert "no share of the ideal gain: KL is within 2 standard errors of 0" in none
    assert not any("%" in line for line in none)
