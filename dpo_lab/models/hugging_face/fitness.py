"""Whether a network and a tokenizer that were read can be used together here: found by looking and by trying."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.scoring.logps import evaluating
from dpo_lab.seeding import generator


def check_vocabulary(path: Path, net: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Raises ValueError where a text can have tokens that the network has no embedding of.

    Special tokens that nothing writes do no harm: Gemma 3's text models have one for images.
    """
    size = len(net.get_input_embeddings().weight)
    written = {*tokenizer.names.values()}
    special = {token.content for token in tokenizer.backend.get_added_tokens_decoder().values() if token.special}
    idle = {token for token in special - written if token not in (tokenizer.chat_template or "")}
    numbers = {token: i for token, i in tokenizer.backend.get_vocab().items() if i >= size and token not in idle}
    if numbers:
        last = max(numbers, key=lambda token: numbers[token])
        raise ValueError(
            f"model.path: the tokenizer in {path} has {numbers[last] + 1:,} tokens and the model embeddings of {size:,}: there "
            f"is none for {last!r}; enlarge them (transformers: resize_token_embeddings, then save_pretrained), or use the "
            "tokenizer that the model was trained with"
        )


@torch.no_grad()
def check_causal(path: Path, net: PreTrainedModel) -> None:
    """Raises ValueError where what the network says of a token depends on those that follow."""
    size = len(net.get_input_embeddings().weight)
    tokens = torch.randint(size, (2, 9), generator=generator(0, "trying a network")).to(net.device)
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % size
    with evaluating(net):
        before, after = (net(input_ids=rows, use_cache=False).logits[:, :-1].float() for rows in (tokens, other))
    if (before - after).abs().max() > 16 * torch.finfo(net.dtype).eps * before.abs().max():
        raise ValueError(
            f"model.path: {path} is a {type(net).__name__} whose tokens see those that follow: name a causal language model"
        )
