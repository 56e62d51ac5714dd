"""A reference in one file: `user_modules=[my_lab.references] reference=average reference.share=0.05`."""

from dataclasses import dataclass
from typing import ClassVar

from dpo_lab.training.references import REFERENCES, LiveReference


@REFERENCES.register
@dataclass
class AverageReference(LiveReference):
    """An exponential moving average of the policy's weights."""

    name: str = "average"
    share: float = 0.01
    moves: ClassVar[bool] = True

    def follow(self, model, policy, step, memory):
        for average, weight in zip(model.parameters(), policy.parameters(), strict=True):
            average.lerp_(weight, self.share)
