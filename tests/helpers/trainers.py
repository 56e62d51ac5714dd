"""A trainer in one call, and tiny policies and pairs for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from coupled import Coupled, prepared
from torch import Tensor, nn

from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.models.copies import freeze
from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.records import CandidateBatch
from dpo_lab.training.compute import Compute
from dpo_lab.training.optimizers import OPTIMIZERS
from dpo_lab.training.references import REFERENCES, Reference
from dpo_lab.training.schedules import SCHEDULES
from dpo_lab.training.settings import TrainerSettings
from dpo_lab.training.trainer import Hooks, Trainer

VOCAB = 7


class Table(nn.Module):
    """Next-token logits are free numbers for each token before: a softmax policy over one-token completions."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits[tokens]


def table(seed: int = 0) -> Table:
    return Table(torch.randn(VOCAB, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def transformer(seed: int = 0, **fields: Any) -> nn.Module:
    torch.manual_seed(seed)
    return TransformerSpec(**({"dim": 8, "depth": 1, "heads": 1, "context": 8} | fields)).build(VOCAB).double()


def comparisons(b: int = 6, seed: int = 0) -> CandidateBatch:
    """Pairs of 1 to 4 tokens after prompts of 1 to 3, padded at the right."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (2, b, 1), generator=draw)
    return CandidateBatch(
        prompt=torch.randint(VOCAB, (b, 3), generator=draw),
        prompt_mask=torch.arange(3) < torch.randint(1, 4, (b, 1), generator=draw),
        completions=torch.randint(VOCAB, (2, b, 4), generator=draw),
        mask=torch.arange(4) < lengths,
        ids=100 + torch.arange(b),
        confidence=torch.ones(b, dtype=torch.float64),
    )


def scored_by(model: nn.Module) -> Reference:
    return Reference(REFERENCES["frozen"](), model)


def trainer(
    policy: nn.Module,
    data: CandidateBatch,
    *,
    loss: PreferenceLoss | None = None,
    reference: Reference | None = None,
    optimizer: str = "sgd",
    lr: float = 0.1,
    seed: int = 0,
    hooks: Hooks | None = None,
    starts_at_reference: bool = True,
    **options: Any,
) -> Trainer:
    """A trainer of DPO against the policy's own beginning, if nothing else is said."""
    if reference is None:
        reference = scored_by(twin_of(policy))
    return Trainer(
        policy=policy,
        loss=loss or LOSSES["dpo"](beta=0.5),
        reference=reference,
        data=data,
        optimizers=OPTIMIZERS[optimizer](lr=lr).build(policy),
        schedule=SCHEDULES["constant"](),
        settings=TrainerSettings(**({"batch_size": 4, "max_steps": 3, "clip": None, "log_every": 1} | options)),
        compute=Compute(device="cpu"),
        seed=seed,
        hooks=hooks or Hooks(),
        starts_at_reference=starts_at_reference,
    )


def twin_of(model: nn.Module) -> nn.Module:
    """The same network built anew, as no deep copy is to be trusted here."""
    if isinstance(model, Table):
        return freeze(Table(model.logits.detach()))
    tied = "net.to_logits.weight" not in model.state_dict()
    twin = transformer(seed=9, tie_embedding=tied)
    twin.load_state_dict(model.state_dict())
    return freeze(twin)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


Trained = tuple[dict[str, Tensor], list[dict[str, float]], dict[str, float]]


def trained(name: str, micro_batch_size: int | None) -> Trained:
    """Weights, metrics and loss state after three steps."""
    torch.set_num_threads(1)
    loss = Coupled() if name == "coupled" else LOSSES[name]()
    logged: list[dict[str, float]] = []
    hooks = Hooks(log=lambda step, metrics: logged.append({k: v for k, v in metrics.items() if not k.endswith("_per_s")}))
    policy = transformer(seed=0)
    fit = trainer(
        policy, prepared(loss, b=8), loss=loss, batch_size=4, micro_batch_size=micro_batch_size, hooks=hooks, clip=1.0
    )
    fit.fit()
    return {k: v.detach().clone() for k, v in policy.state_dict().items()}, logged, dict(fit.objective.loss_state)
