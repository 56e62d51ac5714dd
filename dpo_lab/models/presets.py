"""Transformers of the usual sizes, named by their number of weights with a vocabulary of 4,096."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_lab.models.base import MODELS
from dpo_lab.models.transformer import TransformerSpec


@MODELS.register
@dataclass
class Tiny(TransformerSpec):
    """A transformer of 0.1 M weights, for trying things out: seconds on a CPU."""

    name: str = "tiny"
    dim: int = 64
    depth: int = 2
    heads: int = 2


@MODELS.register
@dataclass
class TenMillion(TransformerSpec):
    """A transformer of 10 M weights: what a CPU trains in an hour."""

    name: str = "10m"
    dim: int = 256
    depth: int = 8
    heads: int = 8
    context: int = 512


@MODELS.register
@dataclass
class HundredMillion(TransformerSpec):
    """A transformer of 100 M weights, as large as GPT-2 small."""

    name: str = "100m"
    dim: int = 640
    depth: int = 14
    heads: int = 10
    context: int = 1024


@MODELS.register
@dataclass
class ThreeHundredMillion(TransformerSpec):
    """A transformer of 350 M weights, as large as GPT-2 medium: for a GPU."""

    name: str = "350m"
    dim: int = 1024
    depth: int = 20
    heads: int = 16
    context: int = 2048


@MODELS.register
@dataclass
class Billion(TransformerSpec):
    """A transformer of 1 B weights with grouped queries, a quarter of the cache of keys and values: for a large GPU."""

    name: str = "1b"
    dim: int = 2048
    depth: int = 15
    heads: int = 32
    kv_heads: int | None = 8
    context: int = 2048
