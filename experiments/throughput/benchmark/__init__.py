"""The throughput study's runner, `runner=benchmark`: times the gradient of DPO's loss on one batch, computed in several ways.

A user module: `user_modules=[experiments.throughput.benchmark]`, from the root of the repository.
"""

from experiments.throughput.benchmark.base import CONTENDERS, Contender, Setting, Step
from experiments.throughput.benchmark.cases import Case
from experiments.throughput.benchmark.runner import BenchmarkRunner

__all__ = ["CONTENDERS", "BenchmarkRunner", "Case", "Contender", "Setting", "Step"]
