"""Transformers of the usual sizes, named by their number of weights with a vocabulary of 4,096."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_lab.models.base import MODELS
from dpo_lab.models.transformer import TransformerSpec


@MODELS.register
@dataclass
class Tiny(TransformerSpec):
    """For trying things out: seconds on a CPU."""

    name: str = "tiny"
    dim: int = 64
    depth: int = 2
    heads: int = 2


@MODELS.register
@dataclass
class TenMillion(TransformerSpec):
    """What a CPU trains in an hour."""

    name: str = "10m"
    dim: int = 256
    depth: int = 8
    heads: int = 8
    context: int = 512


@MODELS.register
@dataclass
class HundredMillion(TransformerSpec):
    """As large as GPT-2 small."""

    name: str = "100m"
    dim: int = 640
    depth: int = 14
    heads: int = 10
    context: int = 1024


@MODELS.register
@dataclass
class ThreeHundredMillion(TransformerSpec):
    """As large as GPT-2 medium."""

    name: str = "350m"
    dim: int = 1024
    depth: int = 20
    heads: int = 16
    context: int = 2048


@MODELS.register
@dataclass
class Billion(TransformerSpec):
    """With grouped queries: the cache of keys and values is a quarter."""

    name: str = "1b"
    dim: int = 2048
    depth: int = 15
    heads: int = 32
    kv_heads: int | None = 8
    context: int = 2048
