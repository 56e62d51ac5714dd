"""Preferences: candidate completions of prompts and their labels, given with the data or sampled and scored by a reward."""

from dpo_lab.preferences.base import CANDIDATES, CandidatesSpec, GivenSource, SampledSource

__all__ = ["CANDIDATES", "CandidatesSpec", "GivenSource", "SampledSource"]
