"""How fast a training step is, beside other ways to take it: `python -m dpo_lab runner=benchmark`."""

from dpo_lab.benchmark import contenders
from dpo_lab.benchmark.base import CONTENDERS, Contender, Setting, Step
from dpo_lab.benchmark.cases import Case

__all__ = ["CONTENDERS", "Case", "Contender", "Setting", "Step", "contenders"]
