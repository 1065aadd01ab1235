"""How likely a model finds an answer, with the instruction and without it."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from instsel.data.batching import IGNORED, BatchFitter, Example
from instsel.evaluation.scoring import heldout_losses


def answer_likelihoods(
    model: nn.Module, examples: Sequence[Example], *, fitter: BatchFitter
) -> tuple[np.ndarray, np.ndarray]:
    """Mean answer-token cross-entropy of each example, and that of the same tokens without what came before them.

    These are s(A|Q) and s(A) of the instruction-following difficulty (arXiv 2308.12032, Section 2.2). For the second
    each answer is a text of its own, which begins with the one token before the answer: every token of it is predicted
    from something, and both losses are over the same tokens. Of a conversation with several answers both are the mean
    over all answer tokens.

    Args:
        model: causal language model; runs on the device its parameters are on.
        examples: {"input_ids", "labels"} with -100 for tokens that are no answer.
        fitter: batches, which become smaller where memory runs out, in later calls too (`BatchFitter.forward`).

    Returns:
        Two of float64 (n,), nats, in the order of `examples`.

    Raises:
        MemoryError: an example alone does not fit in memory.
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
    """Yield each run of answer tokens with the one token before it; the first token of a text counts to no answer."""
    ids, labels = example["input_ids"], example["labels"]
    start = None
    for place in range(1, len(ids) + 1):
        answered = place < len(ids) and labels[place] != IGNORED
        if answered and start is None:
            start = place - 1
        if not answered and start is not None:
            yield {"input_ids": ids[start:place], "labels": [IGNORED, *labels[start + 1 : place]]}
            start = None
