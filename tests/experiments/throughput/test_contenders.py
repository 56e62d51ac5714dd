"""Contenders compute the same thing, so that only their time differs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dpo_lab.models import layer_wrappers
from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.scoring.layouts import Layout
from dpo_lab.training.compute import Compute
from dpo_lab.training.settings import TrainerSettings
from experiments.throughput.benchmark import CONTENDERS, Case
from experiments.throughput.benchmark.contenders import side_by_side
from experiments.throughput.benchmark.prepared import Prepared, Terms, prepared

CASE = Case(prompt=6, completion=4, vocab=24, pairs=3)
TERMS = Terms(TransformerSpec(dim=16, depth=2, heads=2), Compute(device="cpu"), beta=0.3, trainer=TrainerSettings(), seed=1)


def gradient(one: Prepared, moved: bool = True) -> Tensor:
    """Of a policy that has left its reference, where moved: at the start a wrong reference would not show in some."""
    if moved:
        draw = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in one.model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    one.model.zero_grad(set_to_none=True)
    one.step()
    return torch.cat([p.grad.flatten() for p in one.model.parameters() if p.grad is not None])


def test_the_lab_checkpoints_as_it_is_told() -> None:
    one = prepared(replace(TERMS, compute=replace(TERMS.compute, checkpointing=True)), "cached", CASE)
    assert all("forward" in vars(block) for block in one.model.blocks())  # type: ignore[operator]
    expected = gradient(prepared(TERMS, "cached", CASE))
    assert (gradient(one) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("name", ["cached", "live"])
def test_the_lab_has_the_gradient_of_the_plain_loop(name: str, layout: Layout) -> None:
    terms = replace(
        TERMS, compute=Compute(device="cpu", layout=layout, head_portion=5), trainer=TrainerSettings(micro_batch_size=2)
    )
    plain = gradient(prepared(TERMS, "plain", CASE))
    assert (gradient(prepared(terms, name, CASE)) - plain).norm() < 1e-5 * plain.norm()  # float32


def test_compiled_is_cached_and_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    models = list[nn.Module]()
    monkeypatch.setattr(layer_wrappers, "compile_layers", models.append)
    expected = gradient(prepared(TERMS, "cached", CASE))
    one = prepared(TERMS, "compiled", CASE)
    assert models == [one.model]
    assert gradient(one).equal(expected)
    prepared(TERMS, "cached", CASE)
    assert len(models) == 1
    prepared(replace(TERMS, compute=replace(TERMS.compute, compile=True)), "live", CASE)
    assert len(models) == 2


def test_the_plain_loop_has_the_formulas_gradient() -> None:
    """At the start its margin is 0, so the gradient is -beta/2 times that of the mean margin."""
    one = prepared(TERMS, "plain", CASE)
    expected = torch.zeros_like(gradient(one, moved=False))
    for row in range(CASE.pairs):
        for candidate, sign in ((0, 1.0), (1, -1.0)):
            prompt = one.setting.batch.prompt[row][one.setting.batch.prompt_mask[row]]
            completion = one.setting.batch.completions[candidate, row][one.setting.batch.mask[candidate, row]]
            logps = one.model(torch.cat((prompt, completion))[None])[0].log_softmax(dim=-1)
            total = sum(logps[len(prompt) + t - 1, token] for t, token in enumerate(completion.tolist()))
            assert isinstance(total, Tensor)
            found = torch.autograd.grad(total, list(one.model.parameters()))
            expected -= sign * 0.5 * TERMS.beta / CASE.pairs * torch.cat([g.flatten() for g in found])
    assert (gradient(one, moved=False) - expected).norm() < 1e-5 * expected.norm()


def test_the_published_module_computes_the_same_with_either_attention() -> None:
    flash, default = prepared(TERMS, "published_flash", CASE), prepared(TERMS, "published", CASE)

    def fused(model: nn.Module) -> list[bool]:
        return [module.flash for module in model.modules() if hasattr(module, "flash")]  # type: ignore[misc]

    assert fused(flash.model) == [True, True]
    assert fused(default.model) == [False, False]
    expected = gradient(flash)
    assert (gradient(default) - expected).norm() < 1e-5 * expected.norm()


def test_a_pair_side_by_side_is_prompt_then_completion() -> None:
    batch = CASE.draw(seed=3)
    for candidate in range(2):
        tokens, real, scored = side_by_side(batch, candidate)
        assert real[:, -1].any(), "there is no more padding than needed"
        for row in range(len(batch)):
            prompt = batch.prompt[row][batch.prompt_mask[row]].tolist()
            completion = batch.completions[candidate, row][batch.mask[candidate, row]].tolist()
            assert tokens[row][real[row]].tolist() == prompt + completion
            assert tokens[row][scored[row]].tolist() == completion
            assert not tokens[row][~real[row]].any()


def test_a_case_has_the_lengths_that_it_names() -> None:
    case = Case(prompt=40, completion=20, pairs=200)
    batch = case.draw(seed=0)
    prompts, completions = batch.prompt_mask.sum(dim=-1), batch.mask.sum(dim=-1)
    assert (int(prompts.min()), int(prompts.max())) == (20, 60)
    assert (int(completions.min()), int(completions.max())) == (10, 30)
    assert float(prompts.float().mean()) == pytest.approx(40, abs=3)
    assert int(batch.completions[batch.mask].min()) >= 4
    assert batch.prompt.equal(case.draw(seed=0).prompt)
    assert not batch.prompt.equal(case.draw(seed=1).prompt[:, : batch.prompt.shape[1]])


def test_lengths_without_spread_are_the_mean() -> None:
    case = Case(prompt=7, completion=5, pairs=3, spread=0.0)
    batch = case.draw(seed=0)
    assert batch.prompt_mask.shape == (3, 7)
    assert batch.mask.shape == (2, 3, 5)
    assert batch.prompt_mask.all()
    assert batch.mask.all()
    assert case.context == 12


@pytest.mark.parametrize("bad", [{"prompt": 1}, {"completion": 0}, {"vocab": 3}, {"pairs": 0}, {"spread": 0.6}])
def test_a_case_without_room_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Case(**bad)  # type: ignore[arg-type]


def test_every_contender_says_what_it_is() -> None:
    assert all(CONTENDERS[name].__doc__ for name in CONTENDERS)
