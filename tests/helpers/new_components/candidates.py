"""A candidate source in one file: `user_modules=[my_lab.candidates] candidates=neighbours`."""

from dataclasses import dataclass

from dpo_lab.preferences import CANDIDATES, SampledSource
from dpo_lab.preferences.labelling import label_pairs


@CANDIDATES.register
@dataclass
class NeighbourPairs(SampledSource):
    """Each sample of the base policy against the one with the next lower reward: the hardest pairs of a prompt."""

    name: str = "neighbours"

    def pairs(self, samples, *, like=None):
        best_first = samples.scores.argsort(dim=0, descending=True, stable=True)
        return label_pairs(samples, best_first[:-1], best_first[1:])
