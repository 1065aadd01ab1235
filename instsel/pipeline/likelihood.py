"""Stage *likelihood*: the base model's loss of every pool row's answers, with the prompt and without it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from instsel.config.study import Model, StudyConfig
from instsel.io.store import Folder
from instsel.pipeline.extraction import NOT_FINITE, ForwardStage, Item, write_results
from instsel.study.estimates import ID_BYTES, ActorSpec, ItemResult, RowSet
from instsel.study.stage import Settings

if TYPE_CHECKING:
    from instsel.data.batching import Example

LOSS_BYTES = 2 * 8  # with the prompt and without it, float64
LOSS_FILE_BYTES = 1600  # schema and footer of a Parquet file


class Likelihood(ForwardStage):
    """Take the losses of the base model."""

    name = "likelihood"
    position = 40
    takes_validation = False
    suffix = ".parquet"

    def settings(self, config: StudyConfig, key: str) -> Settings:
        return {"token_budget": config.evaluation.token_budget}

    def actors(self, config: StudyConfig, out: Folder) -> ActorSpec:
        budget = config.evaluation.token_budget
        return ActorSpec(LikelihoodTaker, (config.model, budget, out), "evaluation.token_budget", budget)

    def model_inputs(self, config: StudyConfig, rows: RowSet) -> Sequence[RowSet]:
        return [rows, rows.alone()]

    def result_bytes(self, rows: int, shards: int, width: int) -> int:
        return rows * (ID_BYTES + LOSS_BYTES) + shards * LOSS_FILE_BYTES


class LikelihoodTaker:
    """Holds the base model."""

    def __init__(self, threads: int, model: Model, token_budget: int, out: Folder) -> None:
        import torch

        from instsel.data.batching import BatchFitter
        from instsel.models.loading import load_on_devices

        torch.set_num_threads(threads)
        self.model, self.fitter, self.out = load_on_devices(model), BatchFitter.forward(token_budget), out

    def __call__(self, item: Item, ids: list[str], examples: "list[Example]") -> ItemResult:
        from instsel.evaluation.scoring import answer_likelihoods, answers_alone
        from instsel.runtime.session import peak_memory

        loss, alone = answer_likelihoods(self.model, examples, fitter=self.fitter)
        reasons = [None if finite else NOT_FINITE for finite in np.isfinite(loss) & np.isfinite(alone)]
        table = pa.table({"loss": loss, "loss_alone": alone})
        write_results(self.out, item, ids, table, reasons, Likelihood.suffix)
        answers = [answer for example in examples for answer in answers_alone(example)]
        tokens = sum(len(example["input_ids"]) for example in [*examples, *answers])
        return {"tokens": tokens, "peak_memory": peak_memory(), "token_budget": self.fitter.token_budget}
