"""Held-out losses are those of each example alone, in the order given."""

import numpy as np
import pytest
import torch

from instsel.config.study import Lora, Model
from instsel.data.batching import BatchFitter
from instsel.evaluation import scoring as heldout
from instsel.evaluation.scoring import heldout_losses
from instsel.models.loading import attach_lora, load_base


def _examples(count):
    generator = np.random.default_rng(1)
    rows = []
    for _ in range(count):
        ids = generator.integers(3, 300, size=generator.integers(4, 30)).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * 2 + ids[2:]})
    return rows


def test_losses_equal_those_of_transformers_one_example_at_a_time(tiny_model):
    model = load_base(Model(name=str(tiny_model), dtype="float32"))
    examples = _examples(9)
    found = heldout_losses(model, examples, fitter=BatchFitter.forward(64))
    with torch.no_grad():
        alone = [
            model(input_ids=torch.tensor([e["input_ids"]]), labels=torch.tensor([e["labels"]])).loss.item()
            for e in examples
        ]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, alone, rtol=1e-5)


def test_losses_are_the_same_where_memory_runs_out(tiny_model, monkeypatch):
    model = load_base(Model(name=str(tiny_model), dtype="float32"))
    examples, told, refused = _examples(9), [], []
    expected = heldout_losses(model, examples, fitter=BatchFitter.forward(64))
    whole = heldout.answer_losses

    def narrow(model, batch):
        if batch["input_ids"].numel() > 40:
            refused.append(batch["input_ids"].numel())
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, batch)

    monkeypatch.setattr(heldout, "answer_losses", narrow)
    found = heldout_losses(
        model, examples, fitter=BatchFitter.forward(256), on_batch=lambda rows, tokens: told.append((rows, tokens))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # What was learned at the first batch holds for the others, and a batch is told of once.
    assert len(refused) <= 3
    assert np.sum(told, axis=0).tolist() == [9, sum(len(example["input_ids"]) for example in examples)]


def test_an_example_that_does_not_fit_alone_is_told_by_its_length(tiny_model, monkeypatch):
    def none(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(heldout, "answer_losses", none)
    model = load_base(Model(name=str(tiny_model), dtype="float32"))
    (example,) = _examples(1)
    message = f"one row of {len(example['input_ids'])} tokens does not fit in memory; shorten rows"
    with pytest.raises(MemoryError, match=message):
        heldout_losses(model, [example], fitter=BatchFitter.forward(64))


def test_dropout_is_off_and_the_mode_is_put_back(tiny_model):
    base = load_base(Model(name=str(tiny_model), dtype="float32"))
    model = attach_lora(base, Lora(rank=2, dropout=0.5), seed=0).train()
    first, second = (heldout_losses(model, _examples(3), fitter=BatchFitter.forward(64)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.training
