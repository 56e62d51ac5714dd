"""The transformer's options: each does what it says, in every layout that allows it, and samples from its cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from xtransformers import drawn

from dpo_lab.models import MODELS
from dpo_lab.models.copies import independent_copy
from dpo_lab.models.generation import UncachedDecoding
from dpo_lab.models.memory_estimate import describe_size
from dpo_lab.models.transformer import FeedForward, Norm, Positions, TransformerPolicy, TransformerSpec
from dpo_lab.scoring.layouts import ALL_LAYOUTS, Layout
from dpo_lab.scoring.logps import score
from dpo_lab.scoring.self_check import exact_layouts

SMALL = {"dim": 32, "depth": 2, "heads": 4, "context": 24}
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "grouped queries": {"kv_heads": 2},
    "learned positions": {"positions": Positions.learned},
    "no positions": {"positions": Positions.none},
    "alibi": {"positions": Positions.alibi},
    "layer norm": {"norm": Norm.layernorm},
    "gelu": {"feedforward": FeedForward.gelu},
    "wide": {"feedforward_factor": 5.5},
    "normed queries and keys": {"qk_norm": True},
    "normed and grouped": {"qk_norm": True, "kv_heads": 1},
    "unfused attention": {"flash": False},
    "tied": {"tie_embedding": True},
}
NOT_PACKED = {"alibi", "unfused attention"}
UNKNOWN_TO_DECODING = {"alibi"}


def model(option: str) -> TransformerPolicy:
    torch.manual_seed(0)
    made = TransformerSpec(**{**SMALL, **OPTIONS[option]}).build(11).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # scales that are 1 would hide themselves
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_network_and_keeps_the_layouts(option: str) -> None:
    made = model(option)
    said: list[str] = []
    right = set(ALL_LAYOUTS) - ({Layout.packed} if option in NOT_PACKED else set())
    assert set(exact_layouts(made, Layout.auto, said.append)) == right
    assert len(said) == len(ALL_LAYOUTS) - len(right)
    if option not in ("as it is", "unfused attention"):
        plain = model("as it is")
        same_weights = [p.shape for p in plain.parameters()] == [p.shape for p in made.parameters()]
        assert not (same_weights and torch.allclose(score(plain, drawn(2)), score(made, drawn(2)), atol=1e-4))


@pytest.mark.parametrize("option", sorted(OPTIONS.keys() - UNKNOWN_TO_DECODING))
def test_decoding_knows_the_option(option: str) -> None:
    made = model(option)
    starts, tokens = torch.tensor([3, 0, 1]), torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(0))
    cached, whole = made.decoding(starts, 12), UncachedDecoding(made, starts)
    for first, after in ((0, 5), (5, 6), (6, 12)):
        torch.testing.assert_close(
            cached.read(tokens[:, first:after]), whole.read(tokens[:, first:after]), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("option", OPTIONS)
def test_a_copy_is_the_same_and_shares_nothing(option: str) -> None:
    made = model(option)
    twin = independent_copy(made)
    before = score(made, drawn(2))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(score(made, drawn(2)), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "model.dim must be a multiple of model.heads, got 128 and 3"),
        ({"kv_heads": 3}, "model.heads must be a multiple of model.kv_heads, got 4 and 3"),
        ({"kv_heads": 0}, "model.heads must be a multiple of model.kv_heads, got 4 and 0"),
        ({"heads": 32}, "model.dim / model.heads must be at least 6, got 128 / 32"),
        ({"feedforward_factor": 0.0}, "model.feedforward_factor must be > 0, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerSpec(**settings)


def test_small_heads_are_fine_without_rotation() -> None:
    TransformerSpec(heads=32, positions=Positions.none).build(11)


@pytest.mark.parametrize(("name", "millions"), [("tiny", 0.66), ("10m", 10), ("100m", 100), ("350m", 350), ("1b", 950)])
def test_a_preset_is_as_large_as_its_name(name: str, millions: float) -> None:
    with torch.device("meta"):
        made = MODELS[name]().build(4096)
    count = sum(parameter.numel() for parameter in made.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.06)
    assert describe_size(made).startswith(f"{count:,.2f} M parameters, ")


def test_the_memory_of_training_counts_each_number_once() -> None:
    with torch.device("meta"):
        made = MODELS["1b"]().build(4096)
    numbers = sum(parameter.numel() for parameter in made.parameters())
    # Policy, reference, gradient and two moments, four bytes each.
    assert describe_size(made).endswith(f", {20 * numbers / 2**30:.1f} GiB for policy, reference, gradients and AdamW")
