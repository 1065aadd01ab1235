"""Answer losses of examples under a model: on held-out rows, and with and without the instruction."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from instsel.data.batching import IGNORED, BatchFitter, Example, collate
from instsel.models.loss import answer_losses


def heldout_losses(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    fitter: BatchFitter,
    on_batch: Callable[[int, int], Any] | None = None,
) -> np.ndarray:
    """Compute the mean answer-token cross-entropy of each example, without dropout.

    Args:
        model: causal language model; runs on the device its parameters are on.
        examples: {"input_ids", "labels"}, with label -100 for tokens outside answers.
        fitter: forms the batches, smaller ones after an out-of-memory error (`BatchFitter.forward`).
        on_batch: called with the number of rows and tokens after each batch.

    Returns:
        float64 (q,), nats per token, in the order of `examples`.

    Raises:
        MemoryError: a single example does not fit in memory.
    """
    losses = np.zeros(len(examples))
    device = next(model.parameters()).device
    was_training = model.training
    lengths = [len(example["input_ids"]) for example in examples]

    def score(rows: list[int], _: bool) -> None:
        batch = collate([examples[row] for row in rows], device=device)
        losses[rows] = answer_losses(model, batch).double().cpu().numpy()
        if on_batch:
            on_batch(len(rows), sum(lengths[row] for row in rows))

    model.eval()
    with torch.no_grad():
        fitter.run(lengths, score)
    model.train(was_training)
    return losses


def answer_likelihoods(
    model: nn.Module, examples: Sequence[Example], *, fitter: BatchFitter
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean answer-token cross-entropy of each example, with and without the text before the answer.

    These are s(A|Q) and s(A) of the instruction-following difficulty (arXiv 2308.12032, Section 2.2). For s(A), each
    answer becomes a separate text that starts with the token before the answer, so that its first token can be
    predicted and both losses are over the same tokens. In a conversation with several answers, both are means over all
    answer tokens.

    Args:
        model: causal language model; runs on the device its parameters are on.
        examples: {"input_ids", "labels"}, with label -100 for tokens outside answers.
        fitter: forms the batches, smaller ones after an out-of-memory error (`BatchFitter.forward`).

    Returns:
        s(A|Q) and s(A), float64 (n,) each, in nats per token, in the order of `examples`.

    Raises:
        MemoryError: a single example does not fit in memory.
    """
    owners, answers = [], []
    for row, example in enumerate(examples):
        for answer in answers_alone(example):
            owners.append(row)
            answers.append(answer)
    alone = heldout_losses(model, answers, fitter=fitter)
    tokens = np.array([len(answer["input_ids"]) - 1 for answer in answers])
    totals = np.bincount(owners, alone * tokens, minlength=len(examples))
    loss = heldout_losses(model, examples, fitter=fitter)
    return loss, totals / np.bincount(owners, tokens, minlength=len(examples))


def answers_alone(example: Example) -> Iterator[Example]:
    """Yield each run of answer tokens with the token before it; the first token of a text is in no answer."""
    ids, labels = example["input_ids"], example["labels"]
    start = None
    for end in range(1, len(ids) + 1):
        answered = end < len(ids) and labels[end] != IGNORED
        if answered and start is None:
            start = end - 1
        if not answered and start is not None:
            yield {"input_ids": ids[start:end], "labels": [IGNORED, *labels[start + 1 : end]]}
            start = None
