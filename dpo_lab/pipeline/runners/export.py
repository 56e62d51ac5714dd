"""Export a policy in the files of transformers, peft or x-transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dpo_lab.artifacts.directory import write_directory
from dpo_lab.models.memory_estimate import describe_size
from dpo_lab.models.policies import starting_policy
from dpo_lab.pipeline.base import RUNNERS, RunnerSpec
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.study import Study


@RUNNERS.register
@dataclass
class ExportRunner(RunnerSpec):
    """Write the policy at `model.path` and its tokenizer to a new directory, in the files of the library that it comes from.

    A Hugging Face model: config.json and model.safetensors, for `transformers.AutoModelForCausalLM`. An x-transformers one:
    model.safetensors, and x_transformers.json with the arguments of its constructors.
    """

    name: str = "export"
    to: str = ""
    """The directory to make."""
    merge: bool = True
    """Add an adapter to the weights that it belongs to; false: the adapter alone, for `peft.PeftModel`."""

    trains: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...] | None] = ("model",)

    def check(self, study: Study) -> None:
        if study.model.weights() is None:
            raise ValueError("runner=export needs a trained policy: model=checkpoint model.path=RUN_DIRECTORY")
        if not self.to:
            raise ValueError("runner.to is not set: runner=export needs runner.to=DIRECTORY")
        if Path(self.to).expanduser().exists():
            raise ValueError(f"runner.to: {self.to} is there already; choose another directory")

    def run(self, context: Context) -> dict[str, Any]:
        loaded = starting_policy(context.study.model)
        assert loaded is not None, "checked"
        policy, _ = loaded
        directory = Path(self.to).expanduser()

        def write(folder: Path) -> None:
            policy.spec.export(policy.module, folder, self.merge)
            policy.tokenizer.save(folder)

        with context.stage("export", f"{directory}, {describe_size(policy.module)}"):
            write_directory(directory, write)
        return {"directory": str(directory)}
