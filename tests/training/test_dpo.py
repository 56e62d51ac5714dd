"""DPO, the drop-in module: against an oracle in Python loops, the published module, and the two mistakes made before."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from x_transformers import dpo as published_dpo
from xtransformers import EXACT, OPTIONS
from xtransformers import network as network_with

from dpo_lab import DPO
from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.scoring.layouts import ALL_LAYOUTS

VOCAB = 10
Published = published_dpo.DPO
few = settings(max_examples=15, deadline=None)
both_heads = pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])


class Pairs(NamedTuple):
    chosen: Tensor
    rejected: Tensor
    prompt_mask: Tensor
    chosen_mask: Tensor
    rejected_mask: Tensor


def network(tie: bool = False, dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """A raw x-transformers model, as users of the published module have it."""
    torch.manual_seed(seed)
    spec = TransformerSpec(dim=8, depth=1, heads=1, context=8, dropout=dropout, tie_embedding=tie)
    return spec.build(VOCAB).net


@torch.no_grad()
def disturb(model: nn.Module, seed: int = 1) -> None:
    """Noise on every parameter, not a constant: a constant shift can hide behind the last norm."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def trained(tie: bool = False, beta: float = 2.0) -> DPO:
    """A float64 module whose policy has left its reference."""
    dpo = DPO(network(tie), beta=beta).double()
    disturb(dpo.policy_model)
    return dpo


def loss_of(dpo: nn.Module, pairs: Pairs) -> Tensor:
    chosen, rejected, prompt_mask, chosen_mask, rejected_mask = pairs
    masks = {"preferred_seq_mask": chosen_mask, "unpreferred_seq_mask": rejected_mask}
    return dpo(chosen, rejected, prompt_mask=prompt_mask, **masks)


@st.composite
def scattered(draw: st.DrawFn) -> Pairs:
    """Prompt, completion and padding in any order, the two candidates padded differently; padding holds random ids."""
    b, n = draw(st.integers(1, 4)), draw(st.integers(2, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    chosen, rejected = torch.randint(VOCAB, (2, b, n), generator=generator)
    prompt_mask, *masks = torch.rand(3, b, n, generator=generator) < draw(st.sampled_from([0.3, 0.7]))
    for row in range(b):
        start = draw(st.integers(0, n - 2))  # the first prompt token; what stands before it is padding
        for mask in masks:
            mask[row, :start], mask[row, start], mask[row, -1] = False, True, True
        prompt_mask[row, start], prompt_mask[row, -1] = True, False
    return Pairs(chosen, rejected, prompt_mask, *masks)


def right_padded(b: int = 4, p: int = 2, m: int = 5, seed: int = 0) -> Pairs:
    """Prompts of p tokens, completions of 1 to m - 1, then padding: the layout the published module is used with."""
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = torch.randint(VOCAB, (2, b, p + m), generator=generator)
    lengths = torch.randint(1, m, (2, b, 1), generator=generator)
    index = torch.arange(p + m).expand(b, -1)
    return Pairs(chosen, rejected, index < p, index < p + lengths[0], index < p + lengths[1])


def of_one_prompt(**sizes: int) -> Pairs:
    """Right-padded pairs whose sequences begin with the same prompt, as those of real data do."""
    pairs = right_padded(**sizes)
    return pairs._replace(rejected=torch.where(pairs.prompt_mask, pairs.chosen, pairs.rejected))


def oracle(dpo: DPO, pairs: Pairs) -> float:
    """The mean of -log sigmoid(beta * gap), gap between mean log-ratios; one row at a time, in Python floats."""
    losses = []
    chosen, rejected, prompt_mask, chosen_mask, rejected_mask = (tensor.tolist() for tensor in pairs)
    for row in range(len(chosen)):
        sides = ((chosen[row], chosen_mask[row]), (rejected[row], rejected_mask[row]))
        good, bad = (oracle_logratio(dpo, *side, prompt_mask[row]) for side in sides)
        losses.append(math.log1p(math.exp(-dpo.beta * (good - bad))))
    return sum(losses) / len(losses)


def oracle_logratio(dpo: DPO, tokens: list[int], mask: list[bool], prompt_mask: list[bool]) -> float:
    real = [i for i, present in enumerate(mask) if present]
    row = torch.tensor([[tokens[i] for i in real]])
    with torch.no_grad():
        policy, reference = dpo.policy_model(row)[0].tolist(), dpo.ref_model(row)[0].tolist()
    ratios = []
    for before, i in enumerate(real[1:]):
        if not prompt_mask[i]:
            ratios.append(oracle_logp(policy[before], tokens[i]) - oracle_logp(reference[before], tokens[i]))
    return sum(ratios) / len(ratios)


def oracle_logp(logits: list[float], token: int) -> float:
    return math.log(math.exp(logits[token]) / sum(math.exp(logit) for logit in logits))


# The loss in one dense pass, for rows padded on the right, and the two mistakes it has been written with.
Alignment = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def aligned(logits: Tensor, tokens: Tensor, terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return logits[:, :-1], tokens[:, 1:], terms[:, 1:]


def without_shift(logits: Tensor, tokens: Tensor, terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return logits, tokens, terms


def mask_sliced_at_the_end(logits: Tensor, tokens: Tensor, terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return logits[:, :-1], tokens[:, 1:], terms[:, :-1]


def dense_loss(dpo: DPO, pairs: Pairs, align: Alignment) -> Tensor:
    gap = torch.zeros(())
    sides = ((1, pairs.chosen, pairs.chosen_mask), (-1, pairs.rejected, pairs.rejected_mask))
    for sign, tokens, mask in sides:
        for side, model in ((sign, dpo.policy_model), (-sign, dpo.ref_model)):
            logits, targets, terms = align(model(tokens), tokens, mask & ~pairs.prompt_mask)
            logps = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
            gap = gap + side * (logps * terms).sum(-1) / terms.sum(-1)
    return -F.logsigmoid(dpo.beta * gap).mean()


class Trigrams(nn.Module):
    """A table of logits for every two tokens: what is not trained stays exactly where it was."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(VOCAB, VOCAB, VOCAB))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[F.pad(tokens, (1, 0))[:, :-1], tokens]


# --- the value ---------------------------------------------------------------------------------------------------------------


@both_heads
@few
@given(pairs=scattered())
def test_the_loss_equals_an_oracle_in_python_loops(tie: bool, pairs: Pairs) -> None:
    dpo = trained(tie)
    # Float64 on both sides; 1e-9 leaves room for the attention kernel's sums over padded rows.
    assert loss_of(dpo, pairs).item() == pytest.approx(oracle(dpo, pairs), rel=1e-9)


def test_a_model_that_splits_its_head_has_the_same_loss() -> None:
    policy = TransformerSpec(dim=8, depth=1, heads=1, context=8).build(VOCAB)
    dpo = DPO(policy, beta=2.0).double()
    disturb(dpo.policy_model)
    assert loss_of(dpo, right_padded()).item() == pytest.approx(oracle(dpo, right_padded()), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_oracle_rejects_both_historical_mistakes(seed: int) -> None:
    dpo, pairs = trained(), right_padded(seed=seed)
    truth = oracle(dpo, pairs)
    assert dense_loss(dpo, pairs, aligned).item() == pytest.approx(truth, rel=1e-9)
    for mistake in (without_shift, mask_sliced_at_the_end):
        assert dense_loss(dpo, pairs, mistake).item() != pytest.approx(truth, rel=1e-2), mistake.__name__


@pytest.mark.parametrize("seed", range(3))
def test_the_published_module_agrees_once_its_masks_are_moved_by_one(seed: int) -> None:
    ours, pairs = trained(), right_padded(seed=seed)
    published = Published(network(), beta=ours.beta).double()
    published.load_state_dict(ours.state_dict())
    # It takes the mask at t for the token at t + 1, so it gets every term one position early, and no prompt to exclude.
    terms = [F.pad((mask & ~pairs.prompt_mask)[:, 1:], (0, 1)) for mask in (pairs.chosen_mask, pairs.rejected_mask)]
    theirs = loss_of(published, Pairs(pairs.chosen, pairs.rejected, torch.zeros_like(pairs.prompt_mask), *terms))
    mine = loss_of(ours, pairs)
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)
    mine.backward()
    theirs.backward()
    for parameter, other in zip(ours.parameters(), published.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-6, atol=1e-9)


def test_the_published_module_still_slices_its_mask_at_the_wrong_end() -> None:
    """Where this fails, x-transformers has been put right: say so in the README, and keep the mutant."""
    ours, pairs = trained(), right_padded()
    published = Published(network(), beta=ours.beta).double()
    published.load_state_dict(ours.state_dict())
    assert loss_of(published, pairs).item() == pytest.approx(dense_loss(ours, pairs, mask_sliced_at_the_end).item(), rel=1e-6)


def test_prompt_5_6_completion_7_8_9_scores_7_8_9() -> None:
    assert trained_tokens(DPO) == [7, 8, 9]
    assert trained_tokens(Published) == [8, 9, 0]


def trained_tokens(module: type[nn.Module]) -> list[int]:
    """The tokens whose logit the chosen row 5 6 | 7 8 9 | 0 0 raises most, of all the contexts that get a gradient."""
    dpo = module(Trigrams(), pad_id=None)
    chosen, rejected = torch.tensor([[5, 6, 7, 8, 9, 0, 0]]), torch.tensor([[5, 6, 1, 2, 3, 0, 0]])
    mask = torch.arange(7)[None] < 5
    loss_of(dpo, Pairs(chosen, rejected, torch.arange(7)[None] < 2, mask, mask)).backward()
    contexts = [dpo.policy_model.table.grad[pair] for pair in ((5, 6), (6, 7), (7, 8), (8, 9), (9, 0))]
    return [int(gradient.argmin()) for gradient in contexts if gradient.any()]


def test_one_token_answers_without_padding_have_a_gradient() -> None:
    chosen, rejected = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 1]])
    prompt_mask = torch.tensor([[True, True, False]])
    for module, moves in ((DPO, True), (Published, False)):
        dpo = module(network())
        dpo(chosen, rejected, prompt_mask=prompt_mask).backward()
        assert moves == any(parameter.grad.any() for parameter in dpo.parameters())


def test_a_first_token_that_no_prompt_precedes_is_context() -> None:
    dpo, (chosen, rejected, *_) = trained(), right_padded()
    no_prompt = torch.zeros_like(chosen, dtype=torch.bool)
    only_first = no_prompt.index_fill(1, torch.tensor([0]), True)
    assert torch.equal(dpo(chosen, rejected, prompt_mask=no_prompt), dpo(chosen, rejected, prompt_mask=only_first))


@pytest.mark.parametrize("side", [0, 1], ids=["left", "right"])
def test_pad_id_is_the_mask_where_none_is_given(side: int) -> None:
    dpo, (chosen, rejected, prompt_mask, *_) = trained(), right_padded()
    dpo.pad_id = 0
    widths = (2, 0) if side == 0 else (0, 2)
    short = {"prompt_mask": prompt_mask[:, :6]}
    chosen, rejected = chosen[:, :6].clamp(min=1), rejected[:, :6].clamp(min=1)
    padded = dpo(
        F.pad(chosen, widths), F.pad(rejected, widths), prompt_mask=F.pad(short["prompt_mask"], widths, value=side == 0)
    )
    torch.testing.assert_close(padded, dpo(chosen, rejected, **short), rtol=1e-12, atol=0)


def test_a_given_mask_overrides_pad_id() -> None:
    dpo, pairs = trained(), right_padded()
    expected = loss_of(dpo, pairs)
    dpo.pad_id = int(pairs.chosen[0, 0])
    assert torch.equal(loss_of(dpo, pairs), expected)


def test_beta_may_be_changed_at_any_time() -> None:
    dpo = trained(beta=2.0)
    dpo.beta = 0.5
    assert loss_of(dpo, right_padded()).item() == pytest.approx(oracle(dpo, right_padded()), rel=1e-9)
    assert torch.equal(loss_of(dpo, right_padded()), loss_of(trained(beta=0.5), right_padded()))


def test_training_decides_the_first_token_and_the_published_slice_does_not() -> None:
    """The answer to prompt (9, x) is 4 or 5 by parity, then 7. The wrong slice learns to like 7 after right answers only."""
    x = torch.arange(4)
    right, wrong = 4 + x % 2, 5 - x % 2
    chosen, rejected = (torch.stack((torch.full_like(x, 9), x, first, torch.full_like(x, 7)), 1) for first in (right, wrong))
    everything = torch.ones_like(chosen, dtype=torch.bool)
    pairs = Pairs(chosen, rejected, torch.arange(4).expand(4, -1) < 2, everything, everything)

    def first_token_logits_after_training(loss: Callable[[DPO], Tensor]) -> Tensor:
        dpo = DPO(Trigrams(), beta=1.0)
        optimizer = torch.optim.Adam(dpo.parameters(), lr=0.3)
        for _ in range(100):
            optimizer.zero_grad()
            value = loss(dpo)
            value.backward()
            optimizer.step()
        assert value.item() < 0.01  # a mean of four under log(2) / 4: the margin of every pair is right, accuracy 1
        return dpo.policy_model(chosen[:, :2])[x, -1]

    learnt = first_token_logits_after_training(lambda dpo: loss_of(dpo, pairs))
    assert (learnt[x, right] - learnt[x, wrong]).min() > 3  # odds of 20 to 1 for the right token
    at_chance = first_token_logits_after_training(lambda dpo: dense_loss(dpo, pairs, mask_sliced_at_the_end))
    assert not at_chance.any()  # where it started: every token equally likely


# --- policy and reference ----------------------------------------------------------------------------------------------------


@both_heads
def test_the_first_loss_is_log_2_with_dropout_in_training_mode(tie: bool) -> None:
    dpo = DPO(network(tie, dropout=0.5), beta=2.0).train()
    assert loss_of(dpo, right_padded()).item() == pytest.approx(math.log(2), abs=1e-7)
    dpo = DPO(network(tie, dropout=0.5), beta=2.0, dropout=True).train()
    assert loss_of(dpo, right_padded()).item() != pytest.approx(math.log(2), abs=1e-3)


def test_scoring_gives_every_submodule_its_mode_back() -> None:
    dpo = DPO(network(dropout=0.5)).train()
    for module in list(dpo.policy_model.modules())[::2]:
        module.training = False
    before = [module.training for module in dpo.modules()]
    loss_of(dpo, right_padded())
    assert [module.training for module in dpo.modules()] == before
    with pytest.raises(ValueError, match="no completion token"):
        loss_of(dpo, right_padded()._replace(prompt_mask=torch.ones(4, 7, dtype=torch.bool)))
    assert [module.training for module in dpo.modules()] == before


@both_heads
def test_noise_on_every_policy_parameter_leaves_the_reference_bit_identical(tie: bool) -> None:
    dpo, tokens = DPO(network(tie)), right_padded().chosen
    before, policy_before = dpo.ref_model(tokens), dpo.policy_model(tokens)
    assert torch.equal(before, policy_before)
    disturb(dpo.policy_model)
    assert torch.equal(dpo.ref_model(tokens), before)
    assert not torch.allclose(dpo.policy_model(tokens), policy_before)


@both_heads
def test_every_policy_parameter_gets_a_gradient_and_the_reference_none(tie: bool) -> None:
    dpo = DPO(network(tie))
    loss_of(dpo, right_padded()).backward()
    assert all(parameter.grad.any() for parameter in dpo.policy_model.parameters())
    assert all(parameter.grad is None for parameter in dpo.ref_model.parameters())


@both_heads
def test_a_deep_copy_shares_nothing(tie: bool) -> None:
    dpo, pairs = trained(tie), right_padded()
    twin = copy.deepcopy(dpo)
    assert isinstance(twin, DPO)
    assert (twin.beta, twin.pad_id, twin.dropout) == (dpo.beta, dpo.pad_id, dpo.dropout)
    before = loss_of(dpo, pairs)
    assert not any(module.training for module in twin.ref_model.modules())
    assert torch.equal(loss_of(twin, pairs), before)
    disturb(dpo.policy_model, seed=2)
    disturb(dpo.ref_model, seed=3)
    assert torch.equal(loss_of(twin, pairs), before)
    loss_of(twin, pairs).backward()
    assert all(parameter.grad.any() for parameter in twin.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in twin.ref_model.parameters())
    assert all(parameter.grad is None for parameter in dpo.parameters())


def test_an_optimizer_copied_with_the_module_trains_the_copy() -> None:
    dpo, pairs = trained(), right_padded()
    twin, optimizer = copy.deepcopy((dpo, torch.optim.SGD(dpo.parameters(), lr=1.0)))
    before = loss_of(dpo, pairs)
    loss_of(twin, pairs).backward()
    optimizer.step()
    assert torch.equal(loss_of(dpo, pairs), before)
    assert not torch.equal(loss_of(twin, pairs), before)


@both_heads
def test_checkpoints_interchange_with_the_published_module(tie: bool) -> None:
    dpo, pairs = trained(tie), right_padded()
    published = Published(network(tie, seed=5)).double()
    assert list(dpo.state_dict()) == list(published.state_dict())
    published.load_state_dict(dpo.state_dict())
    other = DPO(network(tie, seed=6), beta=dpo.beta).double()
    assert not torch.equal(loss_of(other, pairs), loss_of(dpo, pairs))
    other.load_state_dict(published.state_dict())
    assert torch.equal(loss_of(other, pairs), loss_of(dpo, pairs))


def test_the_reference_is_never_in_training_mode_while_it_scores() -> None:
    dpo = DPO(network(dropout=0.5), beta=2.0)
    assert dpo.train() is dpo
    assert dpo.policy_model.training
    assert not any(module.training for module in dpo.ref_model.modules())
    assert not any(module.training for module in dpo.eval().modules())
    dpo.ref_model.train()
    assert loss_of(dpo, right_padded()).item() == pytest.approx(math.log(2), abs=1e-7)


def test_parameters_are_the_policys_only() -> None:
    dpo = DPO(network())
    assert [id(p) for p in dpo.parameters()] == [id(p) for p in dpo.policy_model.parameters()]
    assert [name for name, _ in dpo.named_parameters()] == [f"policy_model.{n}" for n, _ in dpo.policy_model.named_parameters()]
    assert next(name for name, _ in dpo.named_parameters("a")).startswith("a.policy_model.")
    assert not list(DPO(Trigrams()).parameters(recurse=False))  # the module itself has none
    assert all(name in dpo.state_dict() for name, _ in dpo.named_parameters())


def test_requires_grad_and_zero_grad_leave_the_reference_frozen() -> None:
    dpo = DPO(network()).requires_grad_(False).requires_grad_(True)
    assert all(parameter.requires_grad for parameter in dpo.policy_model.parameters())
    assert not any(parameter.requires_grad for parameter in dpo.ref_model.parameters())
    loss_of(dpo, right_padded()).backward()
    dpo.zero_grad()
    assert all(parameter.grad is None for parameter in dpo.policy_model.parameters())


def test_an_unfrozen_reference_still_gets_no_gradient() -> None:
    dpo = DPO(network())
    nn.ModuleList([dpo]).requires_grad_(True)  # a module that holds this one asks for everything inside
    assert all(parameter.requires_grad for parameter in dpo.ref_model.parameters())
    loss_of(dpo, right_padded()).backward()
    assert all(parameter.grad is None for parameter in dpo.ref_model.parameters())


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_ddp_reduces_the_policys_gradients_only() -> None:
    dpo = DPO(network())
    parallel = nn.parallel.DistributedDataParallel(dpo)
    for _ in range(2):  # a parameter that DDP waits for in vain is an error in the second step
        loss_of(parallel, right_padded()).backward()
    assert all(parameter.grad.any() for parameter in dpo.parameters())


def test_moving_to_float64_moves_both_models_and_the_loss() -> None:
    dpo = DPO(network()).to(torch.float64)
    assert {tensor.dtype for tensor in dpo.state_dict().values() if tensor.is_floating_point()} == {torch.float64}
    assert loss_of(dpo, right_padded()).dtype == torch.float64


@both_heads
def test_bf16_autocast_gives_a_float32_loss_with_gradients(tie: bool) -> None:
    dpo, pairs = DPO(network(tie), beta=2.0), right_padded()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = loss_of(dpo, pairs)
    assert first.dtype == torch.float32
    assert first.item() == pytest.approx(math.log(2), abs=1e-7)
    disturb(dpo.policy_model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(dpo, pairs)
    loss.backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in dpo.parameters())
    # bfloat16 keeps 8 bits: a few tenths of a nat on logits of some 10 nats.
    assert loss.item() == pytest.approx(loss_of(dpo, pairs).item(), rel=0.1)


# --- mistakes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_beta_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be a finite number > 0, got"):
        DPO(network(), beta=beta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x._replace(chosen=x.chosen[0]), r"preferred_seq must be \(pairs, tokens\).*got shape \(7,\)"),
        (lambda x: Pairs(*(t[:0] for t in x)), r"preferred_seq must be \(pairs, tokens\).*got shape \(0, 7\)"),
        (lambda x: x._replace(chosen=x.chosen.float()), r"preferred_seq must hold token ids.*got torch.float32"),
        (lambda x: x._replace(rejected=x.rejected.int()), r"^unpreferred_seq must hold token ids.*got torch.int32"),
        (lambda x: x._replace(rejected=x.rejected[:, :5]), r"unpreferred_seq must have the shape .*\(4, 7\), got \(4, 5\)"),
        (lambda x: x._replace(prompt_mask=x.prompt_mask[:1]), r"prompt_mask must have the shape .*\(4, 7\), got \(1, 7\)"),
        (lambda x: x._replace(prompt_mask=x.prompt_mask.long()), r"prompt_mask must be a mask of torch.bool, got torch.int64"),
        (lambda x: x._replace(rejected_mask=x.rejected_mask[:, 1:]), r"unpreferred_seq_mask must have the shape"),
        (lambda x: x._replace(chosen_mask=x.chosen_mask & ~x.prompt_mask), r"preferred_seq_mask .*true at the prompt too"),
        (lambda x: x._replace(rejected_mask=x.prompt_mask), r"^unpreferred_seq row 0 has no completion token"),
    ],
)
def test_a_mistake_is_a_value_error_that_names_the_argument(change: Callable[[Pairs], Pairs], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_of(trained(), change(right_padded()))


def test_the_row_without_a_completion_is_named() -> None:
    pairs = right_padded()
    pairs.chosen_mask[2, 2:] = False
    with pytest.raises(ValueError, match=r"^preferred_seq row 2 has no completion token to score: leave the pair out"):
        loss_of(trained(), pairs)


def test_importing_the_package_does_not_import_torch() -> None:
    subprocess.run([sys.executable, "-c", "import dpo_lab, sys; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_model_gets_the_loss_of_its_own_logits(option: str) -> None:
    net = network_with(option)
    dpo, plain = DPO(net, beta=2.0), DPO(net, beta=2.0)
    plain._layouts = ()  # its logits, one row a sequence
    for module in (dpo, plain):
        disturb(module.ref_model)
    pairs = [of_one_prompt(p=p, m=12, seed=p) for p in (2, 4, 9)]
    loss_of(dpo, pairs[0])
    found = dpo._layouts
    assert found is not None
    assert set(found) == EXACT[option]
    for of, layouts in product(pairs, [found, *((layout,) for layout in found)]):
        dpo._layouts = layouts
        losses, gradients = [], []
        for module in (dpo, plain):
            losses.append(loss_of(module, of))
            gradients.append(torch.autograd.grad(losses[-1], list(net.parameters()), allow_unused=True, materialize_grads=True))
        tolerance = {"rtol": 1e-4, "atol": 1e-6}  # x-transformers' default attention has a float32 softmax
        torch.testing.assert_close(losses[0], losses[1], **tolerance)
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, **tolerance)


def test_only_what_both_sequences_begin_with_is_shared() -> None:
    dpo, plain = trained(), trained()
    plain._layouts = ()
    pairs = of_one_prompt(p=3)
    chosen = pairs.chosen.clone()
    chosen[0, :3], chosen[1, 2] = torch.tensor([1, 2, 3]), (chosen[1, 2] + 1) % VOCAB  # other prompts than the rejected ones
    alike = pairs.chosen.clone()
    alike[:, 3:6] = pairs.rejected[:, 3:6]  # completions that begin alike count all the same
    loss_of(dpo, pairs)
    found = dpo._layouts
    assert found is not None
    assert set(found) == set(ALL_LAYOUTS)
    for layout in found:
        dpo._layouts = (layout,)
        for of in (pairs, pairs._replace(chosen=chosen), pairs._replace(chosen=alike)):
            torch.testing.assert_close(loss_of(dpo, of), loss_of(plain, of), rtol=1e-9, atol=1e-12)


def test_a_first_call_that_tries_layouts_leaves_gradients_and_modes_alone() -> None:
    dpo = trained()
    dpo.policy_model.eval()
    before = {name: tensor.clone() for name, tensor in dpo.state_dict().items()}
    loss_of(dpo, right_padded())
    assert dpo._layouts
    assert all(parameter.grad is None for parameter in dpo.policy_model.parameters())
    assert not dpo.policy_model.training
    assert before.keys() == dpo.state_dict().keys()
    assert all(tensor.equal(before[name]) for name, tensor in dpo.state_dict().items())
