"""The stages before preference training: text, tokenizer, base policy, rewards, samples, pairs.

Each is an artifact under a key made of everything that determines it, so a change recomputes only what follows it.
"""

from dpo_lab.pipeline.stages.chain import Stages

__all__ = ["Stages"]
