"""Hugging Face models behind the same interface as the lab's own: body, head, shared prompts, cached decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hugging_face import ARCHITECTURES, network
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, MambaConfig
from transformers.modeling_outputs import CausalLMOutputWithPast
from xtransformers import VOCAB, drawn

from dpo_lab.models.copies import independent_copy
from dpo_lab.models.generation import HasDecoding, UncachedDecoding, sample
from dpo_lab.models.hugging_face import causal_lm
from dpo_lab.models.hugging_face.adapters import add_adapter
from dpo_lab.models.hugging_face.causal_lm import CausalLM, LanguageModel, wrap_network
from dpo_lab.models.layer_wrappers import checkpoint_blocks
from dpo_lab.models.lora import Lora
from dpo_lab.scoring.layouts import ALL_LAYOUTS, Layout, SharesPrompt
from dpo_lab.scoring.logps import Scoring, score
from dpo_lab.scoring.self_check import exact_layouts
from dpo_lab.seeding import stream

WINDOWS = {"Qwen2, windows", "Mistral, a window", "Gemma 2", "Gemma 3"}
"""They count places in a row, so prompts do not share one."""
RIGHT = [
    (architecture, layout)
    for architecture in ARCHITECTURES
    for layout in ALL_LAYOUTS
    if layout is not Layout.packed or architecture not in WINDOWS
]
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def model(architecture: str = "Llama", **others: Any) -> CausalLM:
    made = wrap_network(network(architecture, **others))
    assert isinstance(made, CausalLM)
    return made


class Logits(nn.Module):
    """The network's own logits and nothing else."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(input_ids=tokens, use_cache=False).logits


def scores_and_gradients(module: nn.Module, layout: Layout = Layout.rows, portion: int | None = None) -> list[Tensor]:
    scores = score(module.eval(), drawn(2), Scoring([layout], portion))
    weights = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [scores, *torch.autograd.grad((weights * scores).sum(), parameters, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize(("architecture", "layout"), RIGHT)
def test_every_layout_gives_the_scores_and_gradients_of_the_networks_own_logits(architecture: str, layout: Layout) -> None:
    """Rows of up to 15 tokens, so windows of 4 count. Some networks compute norms and rotations in float32 in any case."""
    made = model(architecture)
    right = scores_and_gradients(Logits(made.net))
    for ours, theirs in zip(scores_and_gradients(made, layout, portion=5), right, strict=True):
        assert (ours - theirs).norm() <= 2e-5 * theirs.norm() + 1e-9
    assert layout in exact_layouts(made, layout, pytest.fail)


@pytest.mark.parametrize("architecture", sorted(WINDOWS))
def test_prompts_share_no_row_in_a_model_with_windows(architecture: str) -> None:
    said: list[str] = []
    assert set(exact_layouts(model(architecture), Layout.auto, said.append)) == set(ALL_LAYOUTS) - {Layout.packed}
    assert "its layers see 4 tokens of a row, other candidates included" in said[0]


@every_architecture
def test_decoding_gives_the_logits_of_whole_rows(architecture: str) -> None:
    made = model(architecture)
    starts, tokens = torch.tensor([3, 0, 1]), torch.randint(VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
    cached, whole = made.decoding(starts, 12), UncachedDecoding(made, starts)
    for first, after in ((0, 5), (5, 6), (6, 9), (9, 12)):
        torch.testing.assert_close(
            cached.read(tokens[:, first:after]), whole.read(tokens[:, first:after]), rtol=1e-4, atol=1e-5
        )
        order = torch.tensor([2, 0, 1])
        tokens = tokens[order]
        cached.keep(order)
        whole.keep(order)


def test_a_row_of_branches_may_be_longer_than_a_table_of_positions() -> None:
    made = model("GPT-2", n_positions=12)
    right = scores_and_gradients(Logits(made.net))
    for ours, theirs in zip(scores_and_gradients(made, Layout.branches), right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


MUTANTS: dict[str, tuple[set[Layout], str, Any]] = {
    "masks that show everything": (
        {Layout.branches},
        "masks",
        lambda self, visible, distance: causal_lm.CausalLM._mask(self, (visible | True).tril()),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_layout_is_found_out(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, name, change = MUTANTS[mutant]
    monkeypatch.setattr(CausalLM, name, change)
    said: list[str] = []
    assert set(exact_layouts(model(), Layout.auto, said.append)) == set(ALL_LAYOUTS) - wrong
    assert len(said) == len(wrong)


class Corrected(LlamaForCausalLM):
    """Its logits are no function of the last hidden states alone."""

    def forward(self, input_ids: Tensor | None = None, **given: Any) -> CausalLMOutputWithPast:  # type: ignore[override]
        found = super().forward(input_ids=input_ids, **given)
        if input_ids is not None:
            found.logits = found.logits * (1 + input_ids[..., None])
        return found


def test_a_network_whose_head_does_not_come_off_is_run_whole() -> None:
    made = wrap_network(Corrected(network("Llama").config).double())
    assert type(made) is LanguageModel
    assert not isinstance(made, SharesPrompt | HasDecoding)
    assert exact_layouts(made, Layout.auto, pytest.fail) == (Layout.rows,)
    torch.testing.assert_close(score(made, drawn(2)), score(Logits(made.net), drawn(2)))


def test_a_network_without_keys_and_values_gets_rows_and_reasons() -> None:
    config = MambaConfig(vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1, state_size=2)
    made = wrap_network(AutoModelForCausalLM.from_config(config).eval())
    said: list[str] = []
    assert exact_layouts(made, Layout.auto, said.append) == (Layout.rows,)
    assert len(said) == 2
    tokens, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool)
    drawn_tokens, _ = sample(made, tokens, mask, 3, ends=[0], streams=stream(0, "test").branches(len(tokens)))
    assert drawn_tokens.shape[1] <= 3


@pytest.mark.parametrize(("architecture", "layout"), [one for one in RIGHT if one[0] in ("Llama", "GPT-2", "Gemma 3")])
def test_checkpointing_changes_no_score_and_no_gradient(architecture: str, layout: Layout) -> None:
    made = model(architecture)
    plain, size, names = scores_and_gradients(made, layout), kept(made, layout), made.state_dict().keys()
    checkpoint_blocks(made)
    for one, other in zip(scores_and_gradients(made, layout), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert kept(made, layout) < 0.6 * size
    assert made.state_dict().keys() == names


def kept(module: nn.Module, layout: Layout) -> int:
    """Numbers that the forward pass keeps for the backward pass."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        score(module, drawn(2), Scoring([layout])).sum()
    return sum(sizes)


@every_architecture
def test_a_copy_shares_nothing(architecture: str) -> None:
    made = model(architecture)
    twin = independent_copy(made)
    before = score(twin, drawn(2))
    assert torch.equal(before, score(made, drawn(2)))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(score(twin, drawn(2)), before)
    assert not torch.allclose(score(made, drawn(2)), before)


@every_architecture
def test_the_weights_of_one_network_make_another_the_same(architecture: str) -> None:
    made, other = model(architecture), model(architecture)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    other.load_state_dict(made.state_dict())
    assert torch.equal(score(other, drawn(2)), score(made, drawn(2)))
    storages = [tensor.data_ptr() for tensor in made.state_dict().values()]
    assert len(storages) == len(set(storages)), "a tied weight once"


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="these weights are of another network: they hold "):
        model("Llama").load_state_dict(model("GPT-2").state_dict())


def with_adapter(architecture: str, **settings: Any) -> CausalLM:
    net = network(architecture)
    add_adapter(net, Lora(rank=2, **settings))
    made = wrap_network(net)
    assert isinstance(made, CausalLM)
    return made


@every_architecture
def test_an_adapter_begins_at_nothing_and_is_all_that_is_trained(architecture: str) -> None:
    made, plain = with_adapter(architecture), model(architecture)
    assert torch.equal(score(made, drawn(2)), score(plain, drawn(2)))
    trained = {name for name, parameter in made.net.named_parameters() if parameter.requires_grad}
    assert trained == made.trained == made.state_dict().keys()
    assert all(parameter.dtype == torch.float32 for name, parameter in made.net.named_parameters() if name in trained)
    gradients = scores_and_gradients(made)[1:]
    assert len(gradients) == len(trained)
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("architecture", ["Llama, tied", "GPT-2"])
@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_every_layout_is_right_under_an_adapter(architecture: str, layout: Layout) -> None:
    made = with_adapter(architecture)
    with torch.no_grad():
        for name, parameter in made.net.named_parameters():
            if name in made.trained:
                parameter.normal_()
    assert not torch.allclose(score(made, drawn(2)), score(model(architecture), drawn(2)), atol=0.1)
    right = scores_and_gradients(Logits(made.net))
    for ours, theirs in zip(scores_and_gradients(made, layout), right, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-9  # the adapter computes in float32


def test_the_adapters_first_values_are_its_seeds() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (with_adapter("Llama", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert torch.random.get_rng_state().equal(state)


def test_only_the_named_maps_get_an_adapter() -> None:
    names = with_adapter("Llama", targets=["q_proj"]).trained
    assert names
    assert all(".q_proj." in name for name in names)
    with pytest.raises(ValueError, match=r"model\.lora\.targets: .*no_such"):
        with_adapter("Llama", targets=["no_such"])
