"""RDS+ representations: position-weighted mean of a language model's last hidden states."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from instsel.data.batching import BatchFitter, Example, collate


def pooled_hidden_states(model: nn.Module, examples: Sequence[Example], *, fitter: BatchFitter) -> np.ndarray:
    """Compute RDS+ representations of whole examples, prompt and answer (arXiv 2503.01807, Section 3).

    Args:
        model: causal language model; runs on the device its parameters are on.
        examples: {"input_ids", "labels"}; the labels are ignored.
        fitter: forms the batches, smaller ones after an out-of-memory error (`BatchFitter.forward`).

    Returns:
        float32 (n, h), not normalised, in the order of `examples`: `weighted_mean` of the hidden states after the
        final norm, before the output head.

    Raises:
        MemoryError: a single example does not fit in memory.
    """
    causal_lm: Any = model
    device = next(model.parameters()).device
    vectors = np.empty((len(examples), causal_lm.config.hidden_size), dtype=np.float32)

    def fill(rows: list[int], _: bool) -> None:
        batch = collate([examples[row] for row in rows], device=device)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        states = causal_lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        vectors[rows] = weighted_mean(states, mask.to(states.device)).cpu().numpy()

    with torch.no_grad():
        fitter.run([len(example["input_ids"]) for example in examples], fill)
    return vectors


def weighted_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Average over tokens weighted by position, i / sum(i) with i from 1 (SGPT, arXiv 2202.08904, Section 3.1).

    In a causal model later tokens have seen more of the text. The released code of RDS+ does the same.

    Args:
        states: (B, T, h), any floating dtype, texts padded on the right.
        mask: (B, T), 1 for tokens.

    Returns:
        float32 (B, h).
    """
    weights = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    normalised = weights.float() / weights.sum(dim=1, keepdim=True)
    return torch.einsum("bt,bth->bh", normalised, states.float())
