"""Prompt embeddings: what a text encoder makes of a conversation before its answer."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from instsel.config.study import Embedding
from instsel.data.batching import BatchFitter
from instsel.errors import InputError
from instsel.models.layout import Pooling, pooling_of
from instsel.models.loading import encoder_file, load_encoder


def prompt_text(messages: Sequence[dict[str, str]]) -> str:
    """The contents of all messages before the last assistant turn, a line break between two, without their roles.

    Roles and template marks are the same in all rows, and no text that encoders were trained on has them.
    """
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    return "\n".join(message["content"] for message in messages[: turns[-1]])


class Encoder:
    """A text encoder of any family that transformers loads, on the GPU if there is one, in float32.

    Where memory runs out its batches become smaller, those of later calls too; `fitter` has what they are now.
    """

    def __init__(self, embedding: Embedding) -> None:
        """Load the encoder.

        Raises:
            InputError: it cannot be loaded, pools in a way not known here, or takes no texts of `max_length`.
        """
        self.tokenizer, self.model = load_encoder(embedding)
        self.tokenizer.truncation_side = "right"
        self.device = next(self.model.parameters()).device
        self.max_length = embedding.max_length
        self.fitter = BatchFitter.forward(embedding.token_budget, shorten="embedding.max_length")
        self.pooling: Pooling = (
            pooling_of(lambda name: encoder_file(embedding, name)) if embedding.pooling == "auto" else embedding.pooling
        )
        positions = getattr(self.model.config, "max_position_embeddings", None) or self.max_length
        longest = min(self.tokenizer.model_max_length, positions)
        if self.max_length > longest:
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
        filled = [place for place, row in enumerate(rows) if row]

        def fill(batch: list[int], _: bool) -> None:
            places = [filled[number] for number in batch]
            vectors[places] = self._batch([torch.tensor(rows[place]) for place in places]).cpu().numpy()

        self.fitter.run([len(rows[place]) for place in filled], fill)
        return vectors

    @torch.no_grad()
    def _batch(self, rows: list[Tensor]) -> Tensor:
        lengths = torch.tensor([len(row) for row in rows])
        pad = self.tokenizer.pad_token_id or 0
        ids = pad_sequence(rows, batch_first=True, padding_value=pad).to(self.device)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(self.device)
        states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return pool(states, mask, self.pooling)


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Make one vector of the token vectors of each text.

    Args:
        states: (B, T, e), texts padded on the right.
        mask: bool (B, T), true for tokens.
        pooling: mean over the tokens, the first one (cls) or the last one.

    Returns:
        (B, e).
    """
    if pooling == "cls":
        return states[:, 0]
    lengths = mask.sum(dim=1)
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), lengths - 1]
    return (states * mask[:, :, None]).sum(dim=1) / lengths[:, None]
