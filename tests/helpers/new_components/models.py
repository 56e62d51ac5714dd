"""A model in one file: `user_modules=[my_lab.models] model=gru model.dim=32`."""

from dataclasses import dataclass

from torch import nn

from dpo_lab.models import MODELS, ModelSpec


class GRULanguageModel(nn.Module):
    def __init__(self, vocab_size, dim, context):
        super().__init__()
        self.embedding, self.gru = nn.Embedding(vocab_size, dim), nn.GRU(dim, dim, batch_first=True)
        self.head, self.max_seq_len = nn.Linear(dim, vocab_size), context

    def forward(self, tokens):
        return self.head(self.gru(self.embedding(tokens))[0])


@MODELS.register
@dataclass
class GRUModel(ModelSpec):
    """A gated recurrent network. Cho et al. 2014, arXiv:1406.1078."""

    name: str = "gru"
    dim: int = 64
    context: int = 64

    def build(self, vocab_size):
        return GRULanguageModel(vocab_size, self.dim, self.context)
