"""Scorers of text."""

from dpo_lab.preferences.rewards import lexicon, none, sentiment
from dpo_lab.preferences.rewards.base import REWARDS, RewardSpec, Scorer

__all__ = ["REWARDS", "RewardSpec", "Scorer", "lexicon", "none", "sentiment"]
