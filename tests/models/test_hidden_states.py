"""Representations of whole examples, against one example at a time through transformers."""

import numpy as np
import pytest
import torch

from instsel.config.study import Model
from instsel.data.batching import BatchFitter, collate
from instsel.models import hidden_states
from instsel.models.hidden_states import pooled_hidden_states, weighted_mean
from instsel.models.loading import load_base


@pytest.mark.parametrize("token_budget", [16, 64, 1000])
def test_batches_change_nothing_beyond_rounding(tiny_model, token_budget: int) -> None:
    model = load_base(Model(name=str(tiny_model), dtype="float32"))
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 300, size=size).tolist() for size in (5, 1, 30, 17, 30)]
    got = pooled_hidden_states(
        model, [{"input_ids": row, "labels": row} for row in rows], fitter=BatchFitter.forward(token_budget)
    )
    assert (got.dtype, got.shape) == (np.float32, (5, 64))
    for vector, row in zip(got, rows, strict=True):
        with torch.no_grad():
            # The last of transformers' hidden states is the one after the final norm.
            states = model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0]
        expected = sum(place * state for place, state in enumerate(states.double(), start=1)) / sum(
            range(1, len(row) + 1)
        )
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_representations_are_the_same_where_memory_runs_out(tiny_model, monkeypatch) -> None:
    model = load_base(Model(name=str(tiny_model), dtype="float32"))
    examples = [{"input_ids": list(range(3, 3 + size)), "labels": [0] * size} for size in (20, 20, 5, 20)]
    expected = pooled_hidden_states(model, examples, fitter=BatchFitter.forward(20))

    def narrow(rows, device):
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return collate(rows, device=device)

    monkeypatch.setattr(hidden_states, "collate", narrow)
    np.testing.assert_allclose(
        pooled_hidden_states(model, examples, fitter=BatchFitter.forward(1000)), expected, atol=1e-5
    )


def test_later_tokens_count_for_more_and_padding_for_nothing() -> None:
    states = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [8.0], [1e6]]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert weighted_mean(states, mask).flatten().tolist() == pytest.approx([14 / 6, 20 / 3])


def test_half_precision_states_are_summed_in_float32() -> None:
    states = torch.full((1, 2000, 1), 1.0, dtype=torch.bfloat16)
    mean = weighted_mean(states, torch.ones(1, 2000, dtype=torch.int64))
    assert mean.dtype == torch.float32
    assert mean.item() == pytest.approx(1.0, abs=1e-5)
