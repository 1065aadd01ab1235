"""Stage *represent*: the base model's representation of every pool and validation row, for RDS+."""

from typing import Any

import torch

from instsel.config.study import Model, StudyConfig
from instsel.console import Terminal
from instsel.data.batching import BatchFitter, Example
from instsel.io.store import Folder
from instsel.models.hidden_states import represent
from instsel.models.loading import load_on_devices
from instsel.pipeline.extraction import extract, pool_items, validation_items, write_vectors
from instsel.runtime.session import ResourcePlan, peak_memory
from instsel.study.folder import StageFolder


def run(
    study: StudyConfig, stage: StageFolder, prepare: StageFolder, resources: ResourcePlan, terminal: Terminal
) -> None:
    """Write the shards of representations that are missing, then the manifest, which names the rows set aside."""
    items = validation_items(prepare) + pool_items(prepare)
    arguments = (study.model, study.features.token_budget, stage.folder)
    budget = ("features.token_budget", study.features.token_budget)
    extract(stage, items, prepare, _Representer, arguments, budget, resources, terminal)


class _Representer:
    """Holds the base model."""

    def __init__(self, threads: int, model: Model, token_budget: int, out: Folder) -> None:
        torch.set_num_threads(threads)
        self.model, self.fitter, self.out = load_on_devices(model), BatchFitter.forward(token_budget), out

    def __call__(self, item: dict[str, str], ids: list[str], examples: list[Example]) -> dict[str, Any]:
        write_vectors(self.out, item, ids, represent(self.model, examples, fitter=self.fitter))
        tokens = sum(len(example["input_ids"]) for example in examples)
        return {"tokens": tokens, "peak_memory": peak_memory(), "token_budget": self.fitter.token_budget}
