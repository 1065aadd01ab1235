"""Stage *hidden_states*: the base model's representation of every pool and validation row, for RDS+."""

from typing import TYPE_CHECKING

from instsel.config.study import Model, StudyConfig
from instsel.io.store import Folder
from instsel.pipeline.extraction import ForwardStage, Item, write_vectors
from instsel.study.estimates import ActorSpec, ItemResult
from instsel.study.stage import Settings

if TYPE_CHECKING:
    from instsel.data.batching import Example


class HiddenStates(ForwardStage):
    """Take the hidden states of the base model."""

    name = "hidden_states"
    position = 30

    def settings(self, config: StudyConfig, key: str) -> Settings:
        return {"token_budget": config.features.token_budget}

    def actors(self, config: StudyConfig, out: Folder) -> ActorSpec:
        budget = config.features.token_budget
        return ActorSpec(HiddenStateTaker, (config.model, budget, out), "features.token_budget", budget)


class HiddenStateTaker:
    """Holds the base model."""

    def __init__(self, threads: int, model: Model, token_budget: int, out: Folder) -> None:
        import torch

        from instsel.data.batching import BatchFitter
        from instsel.models.loading import load_on_devices

        torch.set_num_threads(threads)
        self.model, self.fitter, self.out = load_on_devices(model), BatchFitter.forward(token_budget), out

    def __call__(self, item: Item, ids: list[str], examples: "list[Example]") -> ItemResult:
        from instsel.models.hidden_states import pooled_hidden_states
        from instsel.runtime.session import peak_memory

        write_vectors(self.out, item, ids, pooled_hidden_states(self.model, examples, fitter=self.fitter))
        tokens = sum(len(example["input_ids"]) for example in examples)
        return {"tokens": tokens, "peak_memory": peak_memory(), "token_budget": self.fitter.token_budget}
