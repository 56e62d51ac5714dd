"""Candidates: given with the data, or sampled and labelled."""

from dpo_lab.preferences.base import CANDIDATES, CandidatesSpec

__all__ = ["CANDIDATES", "CandidatesSpec"]
