"""The strategies draw what they promise; otherwise the laws are tested on less than they say."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import RecurrentTable, Texts, batches, layouts, models, oracle_score, texts
from torch import nn

from dpo_lab.records import CandidateBatch


def content(batch: CandidateBatch) -> Texts:
    return Texts(
        prompts=[row[real].tolist() for row, real in zip(batch.prompt, batch.prompt_mask, strict=True)],
        completions=[
            [row[real].tolist() for row, real in zip(rows, reals, strict=True)]
            for rows, reals in zip(batch.completions, batch.mask, strict=True)
        ],
    )


@given(st.data())
def test_every_layout_holds_its_content(data: st.DataObject) -> None:
    written = data.draw(texts())
    assert content(data.draw(layouts(written))) == written


def test_the_hard_cases_are_drawn() -> None:
    seen = set()

    @given(batches())
    def look(batch: CandidateBatch) -> None:
        first_padded = not batch.prompt_mask[:, 0].all()
        last_padded = not batch.mask[:, :, -1:].all()
        lengths = batch.mask.sum(dim=2)
        inner = bool((batch.mask.byte().diff(dim=2) == 1).any() and (lengths > 1).any())
        facts = {
            "left": first_padded,
            "right": last_padded,
            "none": bool(batch.mask.all() and batch.prompt_mask.all()),
            "between": inner,
            "one token": bool((lengths == 1).any()),
            "empty": bool((lengths == 0).any()),
            f"k={batch.num_candidates}": True,
        }
        seen.update(name for name, true in facts.items() if true)

    for _ in range(3):
        look()
    assert seen == {"left", "right", "none", "between", "one token", "empty", "k=1", "k=2", "k=4"}


@given(models(), st.permutations([0, 1, 2, 3]))
def test_the_models_see_the_order_of_the_whole_prefix(model: nn.Module, prefix: list[int]) -> None:
    swapped = [prefix[1], prefix[0], *prefix[2:]]
    one, other = model(torch.tensor([prefix, swapped]))[:, -1]
    assert (one - other).abs().max() > 1e-6  # what an oracle at 1e-10 tells apart with ease


def test_the_oracle_gives_the_log_softmax_of_a_bigram() -> None:
    model = RecurrentTable()
    batch = CandidateBatch(
        prompt=torch.tensor([[3]]),
        prompt_mask=torch.tensor([[True]]),
        completions=torch.tensor([[[1]]]),
        mask=torch.tensor([[[True]]]),
        ids=torch.tensor([0]),
        confidence=torch.ones(1),
    )
    expected = (torch.tanh(model.embedding[3]) @ model.out).log_softmax(dim=0)[1]
    torch.testing.assert_close(oracle_score(model, batch), expected.detach().reshape(1, 1, 1))
