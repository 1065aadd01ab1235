"""Stage *likelihood*: the base model's loss of every pool row's answers, with the prompt and without it."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from instsel.config.study import Model, StudyConfig
from instsel.console import Terminal
from instsel.data.batching import BatchFitter, Example
from instsel.evaluation.scoring import answer_likelihoods, answers_alone
from instsel.io.store import Folder
from instsel.models.loading import load_on_devices
from instsel.pipeline.extraction import NOT_FINITE, extract, pool_items, write_results
from instsel.runtime.session import ResourcePlan, peak_memory
from instsel.study.folder import StageFolder

ENDING = ".parquet"


def run(
    study: StudyConfig, stage: StageFolder, prepare: StageFolder, resources: ResourcePlan, terminal: Terminal
) -> None:
    """Write the shards of losses that are missing, then the manifest, which names the rows set aside."""
    arguments = (study.model, study.evaluation.token_budget, stage.folder)
    budget = ("evaluation.token_budget", study.evaluation.token_budget)
    extract(stage, pool_items(prepare), prepare, _Judge, arguments, budget, resources, terminal, ending=ENDING)


class _Judge:
    """Holds the base model."""

    def __init__(self, threads: int, model: Model, token_budget: int, out: Folder) -> None:
        torch.set_num_threads(threads)
        self.model, self.fitter, self.out = load_on_devices(model), BatchFitter.forward(token_budget), out

    def __call__(self, item: dict[str, str], ids: list[str], examples: list[Example]) -> dict[str, Any]:
        loss, alone = answer_likelihoods(self.model, examples, fitter=self.fitter)
        reasons = [None if finite else NOT_FINITE for finite in np.isfinite(loss) & np.isfinite(alone)]
        table = pa.table({"loss": loss, "loss_alone": alone})
        write_results(self.out, item, ids, table, reasons, ENDING)
        answers = [answer for example in examples for answer in answers_alone(example)]
        tokens = sum(len(example["input_ids"]) for example in [*examples, *answers])
        return {"tokens": tokens, "peak_memory": peak_memory(), "token_budget": self.fitter.token_budget}
