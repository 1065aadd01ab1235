"""Held-out loss: how well a model predicts answers it never saw."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from instsel.data.batching import BatchFitter, Example, collate
from instsel.models.loss import answer_losses


def heldout_losses(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    fitter: BatchFitter,
    on_batch: Callable[[int, int], Any] | None = None,
) -> np.ndarray:
    """Mean answer-token cross-entropy of each example, dropout off.

    Args:
        model: causal language model; runs on the device its parameters are on.
        examples: {"input_ids", "labels"} with -100 for tokens that are no answer.
        fitter: batches, which become smaller where memory runs out, in later calls too (`BatchFitter.forward`).
        on_batch: told rows and tokens after each pass.

    Returns:
        float64 (q,), nats, in the order of `examples`.

    Raises:
        MemoryError: an example alone does not fit in memory.
    """
    losses = np.zeros(len(examples))
    device = next(model.parameters()).device
    was_training = model.training
    lengths = [len(example["input_ids"]) for example in examples]

    def judge(rows: list[int], _: bool) -> None:
        batch = collate([examples[row] for row in rows], device=device)
        losses[rows] = answer_losses(model, batch).double().cpu().numpy()
        if on_batch:
            on_batch(len(rows), sum(lengths[row] for row in rows))

    model.eval()
    with torch.no_grad():
        fitter.run(lengths, judge)
    model.train(was_training)
    return losses
