"""The preference losses, one file each. What a file here registers is found by its folder."""

from dpo_lab.losses.base import LOSSES, Laws, PreferenceLoss
from dpo_lab.losses.pairs import Pair, PairLoss, Side

__all__ = ["LOSSES", "Laws", "Pair", "PairLoss", "PreferenceLoss", "Side"]
