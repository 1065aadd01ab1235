"""Stage *embed*: a text encoder's embeddings of all prompts, pool and validation, by actors with one encoder each."""

from typing import Any

import torch

from instsel.config.study import Embedding, StudyConfig
from instsel.console import Terminal
from instsel.io.store import Folder
from instsel.models.embeddings import Encoder, prompt_text
from instsel.pipeline.extraction import extract, pool_items, validation_items, write_vectors
from instsel.runtime.session import ResourcePlan, peak_memory
from instsel.study.folder import StageFolder


def run(
    study: StudyConfig, stage: StageFolder, prepare: StageFolder, resources: ResourcePlan, terminal: Terminal
) -> None:
    """Write the shards of embeddings that are missing, then the manifest, which names the rows set aside."""
    arguments = (study.embedding, stage.folder)
    budget = ("embedding.token_budget", study.embedding.token_budget)
    items = validation_items(prepare) + pool_items(prepare)
    extract(stage, items, prepare, _Embedder, arguments, budget, resources, terminal, columns=["messages"])


class _Embedder:
    """Holds the encoder."""

    def __init__(self, threads: int, embedding: Embedding, out: Folder) -> None:
        torch.set_num_threads(threads)
        self.encoder, self.out = Encoder(embedding), out

    def __call__(self, item: dict[str, str], ids: list[str], examples: list[dict[str, Any]]) -> dict[str, Any]:
        prompts = self.encoder.tokenise([prompt_text(example["messages"]) for example in examples])
        write_vectors(self.out, item, ids, self.encoder.embed(prompts))
        tokens, budget = sum(map(len, prompts)), self.encoder.fitter.token_budget
        return {"tokens": tokens, "peak_memory": peak_memory(), "token_budget": budget}
