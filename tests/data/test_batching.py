"""Token-budget batches and padding."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsel.data.batching import collate, token_budget_batches


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_every_row_once_within_the_budget_and_deterministic(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[row] for row in batch) * len(batch)
        assert padded <= budget or len(batch) == 1
    assert batches == token_budget_batches(list(lengths), budget)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_batches_hold_like_lengths_and_no_row_could_join_the_batch_before(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    for before, after in itertools.pairwise(batches):
        assert min(lengths[row] for row in before) >= max(lengths[row] for row in after)
        assert max(lengths[row] for row in before) * (len(before) + 1) > budget


def test_equal_lengths_keep_their_order():
    assert token_budget_batches([3, 3, 3, 3], 6) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_below_one_is_refused(budget):
    with pytest.raises(ValueError, match=str(budget)):
        token_budget_batches([1], budget)


def test_a_row_without_tokens_is_named():
    with pytest.raises(ValueError, match="row 1 has 0 tokens"):
        token_budget_batches([3, 0], 10)


def test_collate_pads_on_the_right():
    batch = collate([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}], pad_id=9)
    assert torch.equal(batch["input_ids"], torch.tensor([[5, 6, 7], [8, 9, 9]]))
    assert torch.equal(batch["attention_mask"], torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert torch.equal(batch["labels"], torch.tensor([[-100, 6, 7], [8, -100, -100]]))
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_collate_puts_tensors_on_the_device():
    batch = collate([{"input_ids": [5], "labels": [5]}], device="meta")
    assert {tensor.device.type for tensor in batch.values()} == {"meta"}


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no example"),
        ([{"input_ids": [1, 2], "labels": [1]}], "example 0 has 2 tokens and 1 labels"),
        ([{"input_ids": [1], "labels": [1]}, {"input_ids": [], "labels": []}], "example 1 has 0 tokens"),
    ],
)
def test_collate_names_what_is_wrong(examples, message):
    with pytest.raises(ValueError, match=message):
        collate(examples)
