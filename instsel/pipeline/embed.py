"""Stage *embed*: a text encoder's embeddings of all prompts, pool and validation, by actors with one encoder each."""

from collections.abc import Sequence

from instsel.config.study import Embedding, StudyConfig
from instsel.data.chat import prompt_text
from instsel.data.messages import Conversation
from instsel.io.store import Folder
from instsel.pipeline.extraction import ForwardStage, Item, write_vectors
from instsel.study import dependencies
from instsel.study.estimates import ActorSpec, ItemResult, RowSet
from instsel.study.stage import Settings


class Embed(ForwardStage):
    """Embed the prompts."""

    name = "embed"
    position = 20

    def settings(self, config: StudyConfig, key: str) -> Settings:
        return dependencies.encoder_settings(config)

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        return {"encoder": dependencies.encoder(config)}

    def actors(self, config: StudyConfig, out: Folder) -> ActorSpec:
        budget = config.embedding.token_budget
        arguments = (config.embedding, out)
        return ActorSpec(PromptEmbedder, arguments, "embedding.token_budget", budget, columns=["messages"])

    def model_inputs(self, config: StudyConfig, rows: RowSet) -> Sequence[RowSet]:
        """Return the prompts.

        Their tokens are those of the study's tokenizer, template marks counted; the encoder's tokenizer may cut a text
        into somewhat more or fewer. The time is right all the same, as batches that are timed are counted alike.
        """
        return [rows.prompts(config.embedding.max_length)]

    def rate_dependencies(self, config: StudyConfig) -> Settings:
        encoder = {**dependencies.encoder(config), **dependencies.encoder_settings(config)}
        return {"encoder": encoder, "gpus_per_actor": config.resources.gpus_per_actor}


class PromptEmbedder:
    """Holds the encoder."""

    def __init__(self, threads: int, embedding: Embedding, out: Folder) -> None:
        import torch

        from instsel.models.embeddings import Encoder

        torch.set_num_threads(threads)
        self.encoder, self.out = Encoder(embedding), out

    def __call__(self, item: Item, ids: list[str], examples: Sequence[Conversation]) -> ItemResult:
        from instsel.runtime.session import peak_memory

        prompts = self.encoder.tokenise([prompt_text(example["messages"]) for example in examples])
        write_vectors(self.out, item, ids, self.encoder.embed(prompts))
        tokens, budget = sum(map(len, prompts)), self.encoder.fitter.token_budget
        return {"tokens": tokens, "peak_memory": peak_memory(), "token_budget": budget}
