"""Prompt embeddings: what a text encoder makes of a conversation before its answer, pooled as its folder says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from instsel.config.study import Embedding
from instsel.data.batching import BatchFitter
from instsel.errors import InputError
from instsel.models.loading import encoder_file, load_encoder, source_of

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.modules import Pooling

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
_PACKAGE = "sentence_transformers."
_MODES = ("mean", "cls", "lasttoken")


class Encoder:
    """A text encoder of any family that sentence-transformers loads, on the GPU if there is one, in float32.

    Where memory runs out its batches become smaller, those of later calls too; `fitter` has what they are now.
    """

    def __init__(self, embedding: Embedding) -> None:
        """Load the encoder.

        Raises:
            InputError: it cannot be loaded, pools in a way not known here, or takes no texts of `max_length`.
        """
        self.transformer = load_encoder(embedding)
        if (tokenizer := self.transformer.tokenizer) is None:
            raise InputError(f"embedding.encoder: {embedding.encoder} has no tokenizer; name a model that takes texts")
        self.tokenizer, self.model = tokenizer, self.transformer.model
        self.tokenizer.truncation_side = "right"
        self.device = next(self.model.parameters()).device
        self.max_length = embedding.max_length
        self.fitter = BatchFitter.forward(embedding.token_budget, shorten="embedding.max_length")
        self.pooling = load_pooling(embedding, self.model.config.hidden_size)
        if self.max_length > (longest := self.tokenizer.model_max_length):
            raise InputError(
                f"embedding.max_length is {self.max_length}, but {embedding.encoder} takes {longest} tokens; lower it"
            )

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with the encoder's special tokens, cut at the end to `max_length`."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, padding=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def embed(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Embed tokenised texts.

        Returns:
            float32 (n, e), not normalised, in the order of `rows`; zeros for a row without tokens.

        Raises:
            MemoryError: a text alone does not fit in memory.
        """
        vectors = np.zeros((len(rows), self.model.config.hidden_size), dtype=np.float32)
        filled = [index for index, row in enumerate(rows) if row]

        def fill(batch: list[int], _: bool) -> None:
            indices = [filled[number] for number in batch]
            vectors[indices] = self._batch([torch.tensor(rows[index]) for index in indices]).cpu().numpy()

        self.fitter.run([len(rows[index]) for index in filled], fill)
        return vectors

    @torch.no_grad()
    def _batch(self, rows: list[Tensor]) -> Tensor:
        lengths = torch.tensor([len(row) for row in rows])
        pad = self.tokenizer.pad_token_id or 0
        ids = pad_sequence(rows, batch_first=True, padding_value=pad).to(self.device)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(self.device)
        features = self.transformer({"input_ids": ids, "attention_mask": mask.long()})
        vectors: Tensor = self.pooling(features)["sentence_embedding"]
        return vectors


def load_pooling(embedding: Embedding, width: int) -> "Pooling":
    """Load an encoder's pooling: as the study or the encoder's modules say, by the mean if neither does.

    Normalize, which changes no direction, is left out. The modules are checked before any is loaded, because
    sentence-transformers loads whichever of its classes they name, some of them from pickles.

    Args:
        embedding: The study's.
        width: Dimensions of a token vector.

    Raises:
        InputError: The encoder has modules, a pooling or a default prompt that are not computed here.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    mode = _mode_of_modules(embedding) if embedding.pooling == "auto" else embedding.pooling
    pooling: Pooling = Pooling(width, "lasttoken" if mode == "last" else mode)
    return pooling


def _mode_of_modules(embedding: Embedding) -> str:
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = encoder_file(embedding, MODULES)
    if modules is None:
        return "mean"
    names = [module["type"].removeprefix(_PACKAGE) for module in modules]
    kinds = [name.rpartition(".")[2] for name in names]
    foreign = any(not module["type"].startswith(_PACKAGE) for module in modules)
    if foreign or kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"} or modules[0]["path"]:
        raise _refusal(f"is made of {', '.join(names)}, where Transformer, Pooling and Normalize are known")
    prompt = (encoder_file(embedding, SETTINGS) or {}).get("default_prompt_name")
    if prompt is not None:
        raise _refusal(f"puts the prompt {prompt!r} before every text")
    source = source_of(embedding.encoder, embedding.revision, "embedding.encoder")
    settings = Pooling.load_config(source.name, subfolder=modules[1]["path"], revision=source.revision)
    modes = settings.get("pooling_mode", "mean")
    mode: str = modes if isinstance(modes, str) else " and ".join(modes)
    if mode not in _MODES:
        raise _refusal(f"pools by {mode}, where {', '.join(_MODES)} are known")
    return mode


def _refusal(reason: str) -> InputError:
    return InputError(
        f"embedding.encoder: it {reason}; name another encoder, or set embedding.pooling to take this one's "
        "transformer alone"
    )
