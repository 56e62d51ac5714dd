"""The data's own pairs: every one is encoded or counted as left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.candidates import CANDIDATES
from dpo_lab.data import Preference
from dpo_lab.tokenizers import TOKENIZERS

BYTES = TOKENIZERS["byte"]().train([])
WORDS = TOKENIZERS["word"]().train(["a b c"])
PAIRS = st.builds(
    Preference,
    st.text("ab", max_size=6),
    st.text("ab", min_size=1, max_size=6),
    st.text("ab", min_size=1, max_size=6),
    st.sampled_from([0.5, 0.75, 1.0]),
)


@given(pairs=st.lists(PAIRS, min_size=1, max_size=6))
def test_every_pair_is_encoded_or_counted(pairs: list[Preference]) -> None:
    spec = CANDIDATES["given"](max_prompt_tokens=5, max_tokens=5)
    too_long = {
        "left out, prompt over max_prompt_tokens": [p for p in pairs if len(p.prompt) + 1 > 5],
        "left out, completion over max_tokens": [
            p for p in pairs if len(p.prompt) + 1 <= 5 and max(len(p.chosen), len(p.rejected)) + 1 > 5
        ],
    }
    left = [p for p in pairs if not any(p is q for rows in too_long.values() for q in rows)]
    kept = [p for p in left if p.chosen != p.rejected]
    if not kept:
        with pytest.raises(ValueError, match=f"no pair of {len(pairs)} is left"):
            spec.encode(pairs, BYTES)
        return
    batch, counts = spec.encode(pairs, BYTES)
    assert counts == {
        **{name: len(rows) for name, rows in too_long.items()},
        "left out, equal after tokenisation": len(left) - len(kept),
    }
    assert len(batch) == len(kept)
    assert batch.confidence.tolist() == [p.confidence for p in kept]
    assert batch.ids.tolist() == list(range(len(kept)))
    for i, pair in enumerate(kept):
        prompt = batch.prompt[i][batch.prompt_mask[i]].tolist()
        assert prompt[0] == BYTES.start
        assert BYTES.decode(prompt) == pair.prompt
        for side, text in enumerate((pair.chosen, pair.rejected)):
            row = batch.completions[side, i][batch.mask[side, i]].tolist()
            assert row[-1] == BYTES.end
            assert BYTES.decode(row) == text


def test_a_pair_that_the_tokenizer_cannot_tell_apart_is_left_out_and_counted() -> None:
    pairs = [Preference("a", " b", " B"), Preference("a", " b", " c")]
    batch, counts = CANDIDATES["given"]().encode(pairs, WORDS)
    assert len(batch) == 1
    assert counts["left out, equal after tokenisation"] == 1


def test_where_no_pair_is_left_the_message_says_why_and_what_to_raise() -> None:
    pairs = [Preference("a" * 9, "b", "c"), Preference("a", "b" * 9, "c")]
    message = (
        "no pair of 2 is left .1 left out, prompt over max_prompt_tokens, 1 left out, completion over max_tokens.; "
        "raise candidates.max_tokens or candidates.max_prompt_tokens"
    )
    with pytest.raises(ValueError, match=message.replace(".", r".")):
        CANDIDATES["given"](max_prompt_tokens=5, max_tokens=5).encode(pairs, BYTES)


@pytest.mark.parametrize("field", ["max_tokens", "max_prompt_tokens"])
def test_a_limit_below_one_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"candidates\.{field} must be at least 1, got 0"):
        CANDIDATES["given"](**{field: 0})
