"""Held-out losses are those of each example alone, in the order given."""

import numpy as np
import torch

from instsel.config import Lora, Model
from instsel.evaluation.heldout import heldout_losses
from instsel.model import attach_lora, load_base


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
    found = heldout_losses(model, examples, token_budget=64)
    with torch.no_grad():
        alone = [
            model(input_ids=torch.tensor([e["input_ids"]]), labels=torch.tensor([e["labels"]])).loss.item()
            for e in examples
        ]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, alone, rtol=1e-5)


def test_dropout_is_off_and_the_mode_is_put_back(tiny_model):
    base = load_base(Model(name=str(tiny_model), dtype="float32"))
    model = attach_lora(base, Lora(rank=2, dropout=0.5), seed=0).train()
    first, second = (heldout_losses(model, _examples(3), token_budget=64) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.training
