"""Losses of answers with their prompt and alone, against one example at a time through transformers."""

import numpy as np
import pytest
import torch

from instsel.config.study import Model
from instsel.data.batching import BatchFitter
from instsel.evaluation.scoring import answer_likelihoods, answers_alone
from instsel.models.loading import load_base

SKIP = -100


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_base(Model(name=str(tiny_model), dtype="float32"))


def example(size: int, answers: list[range]) -> dict[str, list[int]]:
    ids = np.random.default_rng(size).integers(3, 300, size=size).tolist()
    return {
        "input_ids": ids,
        "labels": [token if any(p in a for a in answers) else SKIP for p, token in enumerate(ids)],
    }


def token_losses(model, ids: list[int]) -> list[float]:
    """Cross-entropy of every token but the first, given all before it."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return (-logits.log_softmax(dim=1)[torch.arange(len(ids) - 1), ids[1:]]).tolist()


def test_both_losses_are_over_the_same_answer_tokens(model):
    spans = [[range(4, 9)], [range(2, 5), range(8, 9), range(12, 20)], [range(3)], [range(5, 6)]]
    sizes = [12, 20, 6, 6]
    examples = [example(size, answers) for size, answers in zip(sizes, spans, strict=True)]
    loss, alone = answer_likelihoods(model, examples, fitter=BatchFitter.forward(40))
    for row, answers in enumerate(spans):
        ids = examples[row]["input_ids"]
        whole = token_losses(model, ids)
        # A text's first token has no prediction.
        places = [[place for place in answer if place] for answer in answers]
        assert loss[row] == pytest.approx(np.mean([whole[place - 1] for part in places for place in part]), abs=1e-5)
        apart = [value for part in places for value in token_losses(model, ids[part[0] - 1 : part[-1] + 1])]
        assert alone[row] == pytest.approx(np.mean(apart), abs=1e-5)
    assert np.abs(loss - alone)[:2].min() > 1e-3


def test_an_answer_right_after_the_first_token_is_the_same_alone(model):
    loss, alone = answer_likelihoods(model, [example(7, [range(1, 7)])], fitter=BatchFitter.forward(64))
    np.testing.assert_allclose(loss, alone, rtol=1e-6)


def test_answers_begin_with_the_token_before_them():
    whole = {"input_ids": [10, 11, 12, 13, 14], "labels": [10, SKIP, 12, SKIP, 14]}
    assert list(answers_alone(whole)) == [
        {"input_ids": [11, 12], "labels": [SKIP, 12]},
        {"input_ids": [13, 14], "labels": [SKIP, 14]},
    ]
