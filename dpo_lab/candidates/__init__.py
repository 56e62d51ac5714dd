"""Candidates: given with the data, or sampled and labelled."""

from dpo_lab.candidates import given, sampled
from dpo_lab.candidates.base import CANDIDATES, CandidatesSpec

__all__ = ["CANDIDATES", "CandidatesSpec", "given", "sampled"]
