"""Hugging Face models: any causal language model of transformers, and adapters of peft. Only this folder imports the two.

loading         a directory's network, tokenizer and configuration
fitness         whether network and tokenizer can be used together
causal_lm       wrap_network(net): a network with body, head, layouts and cached decoding
language_model  a network of which only the logits are used
head            a network's head on its own
decoding        token by token, with keys and values in a cache
adapters        low-rank adapters
"""
