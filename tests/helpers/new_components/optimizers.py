"""An optimiser in one file: `user_modules=[my_lab.optimizers] optimizer=nadam optimizer.lr=1e-3`."""

from dataclasses import dataclass

from torch.optim import NAdam

from dpo_lab.training.optimizers import OPTIMIZERS, OptimizerSpec


@OPTIMIZERS.register
@dataclass
class NAdamSpec(OptimizerSpec):
    """Adam with Nesterov momentum. Dozat 2016."""

    name: str = "nadam"
    lr: float = 1e-3

    def build(self, model):
        return [NAdam([weight for weight in model.parameters() if weight.requires_grad], lr=self.lr)]
