"""Batches that fit: every row once, smaller batches after a lack of memory, and which errors are one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsel.data.batching import BatchFitter, is_out_of_memory


class Memory:
    """Holds so many padded tokens, several times as many where activations are recomputed."""

    def __init__(self, lengths, tokens, recomputed=4):
        self.lengths, self.tokens, self.recomputed, self.done, self.refused = lengths, tokens, recomputed, [], 0

    def __call__(self, rows, recompute):
        size = len(rows) * max(self.lengths[row] for row in rows)
        if size > self.tokens * (self.recomputed if recompute else 1):
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.done += rows


@given(lengths=st.lists(st.integers(1, 40), max_size=30), budget=st.integers(1, 500), tokens=st.integers(10, 400))
def test_every_row_goes_through_once_whatever_the_memory(lengths, budget, tokens):
    memory = Memory(lengths, tokens)
    fitter = BatchFitter(budget)
    fitter.run(lengths, memory)
    assert sorted(memory.done) == list(range(len(lengths)))
    assert fitter.token_budget <= budget or not memory.refused
    assert fitter.recompute == any(length > tokens for length in lengths)


def test_what_was_learned_holds_for_the_next_rows():
    lengths = [10] * 16
    memory = Memory(lengths, 45)
    fitter = BatchFitter(160)
    fitter.run(lengths, memory)
    assert (fitter.token_budget, memory.refused) == (40, 2)
    fitter.run(lengths, memory)
    assert memory.refused == 2


def test_a_row_that_does_not_fit_alone():
    with pytest.raises(MemoryError, match="one row of 50 tokens does not fit"):
        BatchFitter(4096).run([50, 3], Memory([50, 3], 10))


def test_a_forward_pass_has_nothing_to_recompute_and_names_its_own_key():
    fitter = BatchFitter.forward(4096, shorten="embedding.max_length")
    memory = Memory([10] * 4, 20)
    fitter.run([10] * 4, memory)
    assert (fitter.token_budget, fitter.recompute, memory.done) == (20, None, [0, 1, 2, 3])
    with pytest.raises(MemoryError, match=r"50 tokens does not fit in memory; shorten rows \(embedding\.max_length\)"):
        fitter.run([50], Memory([50], 10))


def test_a_refused_allocation_on_the_cpu_is_a_lack_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.float64)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError())


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="token_budget is 0"):
        BatchFitter(0)
