"""Policies: the networks that are trained, where they come from, and how they are sampled.

base             what a model choice is; one file each: transformer, presets, checkpoint, pretrained
policies         a policy on disk: network, tokenizer and the choice it was built from
generation       sampling completions
kv_cache         decoding an x-transformers model with its keys and values kept
hugging_face     networks of transformers, adapters of peft
layer_wrappers   torch.compile and activation checkpointing
copies           copies of a network that share nothing
memory_estimate  how much memory training takes at least
lora             settings of an adapter
"""

from dpo_lab.models.base import MODELS, ModelSpec, Opened

__all__ = ["MODELS", "ModelSpec", "Opened"]
