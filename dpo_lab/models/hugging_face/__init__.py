"""Policies of Hugging Face: any causal language model of transformers, and adapters of peft."""
