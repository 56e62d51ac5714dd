"""The preference losses, one file each. What a file here registers is found by its folder."""

from dpo_lab.losses.base import LOSSES, PreferenceLoss
from dpo_lab.losses.laws import Laws
from dpo_lab.losses.pairs import Pair, PairLoss

__all__ = ["LOSSES", "Laws", "Pair", "PairLoss", "PreferenceLoss"]
