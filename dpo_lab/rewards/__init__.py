"""Scorers of text."""

from dpo_lab.rewards import lexicon, none, sentiment
from dpo_lab.rewards.base import REWARDS, RewardSpec, Scorer

__all__ = ["REWARDS", "RewardSpec", "Scorer", "lexicon", "none", "sentiment"]
