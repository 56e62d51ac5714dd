"""Keys of a study: digests of its settings and input files, and of the code and versions behind its results."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from dpo_lab.artifacts.digests import digest, json_value
from dpo_lab.artifacts.fingerprint import (
    HOUSEKEEPING,
    Code,
    code_of,
    component_classes,
    flat,
)
from dpo_lab.artifacts.provenance import versions
from dpo_lab.models.policies import files_key, spec_class
from dpo_lab.pipeline.base import runner_of
from dpo_lab.pipeline.study import Study


def settings_key(study: Study) -> str:
    """Digest of settings and input files; where and how often something is written does not count."""
    settings = {name: value for name, value in flat(json_value(study)) if name == "name" or name not in HOUSEKEEPING}
    return digest([settings, input_digests(study)])


def config_key(study: Study) -> str:
    """Digest of everything that decides what a run computes: settings, files, code and library versions.

    Threads and device count as they are set (`compute.threads`): left open, they only change the last bits.
    """
    return digest([settings_key(study), code_of_study(study).to_json()])


def code_of_study(study: Study) -> Code:
    """The code behind all that a run of the study computes: of its runner, of every component that it has chosen, of the
    networks that it starts from, and of the run that it judges.
    """
    makers = set()
    for weights in (study.model.weights(), study.reference.weights()):
        if weights is not None:
            with suppress(ValueError):  # it is no policy, as is said when it is read
                makers.add(spec_class(weights))
    own, judged = code_of(*component_classes(study), *makers), None
    with suppress(ValueError):
        judged = runner_of(study).earlier_study(study)
    return own if judged is None else own | code_of_study(judged)


def input_digests(study: Study) -> dict[str, Any]:
    """Digests of the study's input files."""
    found: dict[str, Any] = {"data": study.data.fingerprint(), "reward": study.reward.fingerprint()}
    for part, weights in (("model", study.model.weights()), ("reference", study.reference.weights())):
        if weights is not None:
            found[part] = files_key(weights)
    return found


def run_environment(study: Study) -> dict[str, Any]:
    """The facts that `DECISIVE_FACTS` names, as they are now."""
    code = code_of_study(study).to_json()
    return {
        "code": code["modules"],
        "versions": {**versions(), **code["versions"]},
        "threads": torch.get_num_threads(),
        "device": str(study.compute.torch_device),
    }
