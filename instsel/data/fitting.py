"""Batches that fit the memory: rows in token-budget batches, and in smaller ones once a batch ran out of it."""

from collections.abc import Callable, Sequence

import torch

from instsel.data.batches import token_budget_batches

REFUSALS = ("DefaultCPUAllocator: can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class BatchFitter:
    """Runs work over batches; halves the token budget, and at last recomputes activations, where memory does not do.

    Attributes:
        token_budget: Most padded tokens of a batch; what is learned in one `run` holds for the next.
        recompute: Whether not even a single row did fit, so that activations are recomputed; None for a forward pass
            alone, which keeps none.
        shorten: Key of the study file that makes rows shorter.
    """

    def __init__(self, token_budget: int, recompute: bool | None = False, shorten: str = "data.max_length") -> None:
        """Starts with a budget.

        Raises:
            ValueError: token_budget is below 1.
        """
        if token_budget < 1:
            raise ValueError(f"token_budget is {token_budget}; expected at least 1")
        self.token_budget = token_budget
        self.recompute = recompute
        self.shorten = shorten

    @classmethod
    def forward(cls, token_budget: int, shorten: str = "data.max_length") -> "BatchFitter":
        """For forward passes alone."""
        return cls(token_budget, recompute=None, shorten=shorten)

    def run(self, lengths: Sequence[int], work: Callable[[list[int], bool], None]) -> None:
        """Calls work(rows, recompute) for batches of rows until every row was in one that went through.

        Args:
            lengths: Tokens of every row.
            work: May run out of memory; what it leaves behind for rows that it did not finish is overwritten.

        Raises:
            MemoryError: A row alone does not fit, not even with activations recomputed where there are any.
        """
        waiting = token_budget_batches(lengths, self.token_budget)
        while waiting:
            rows = waiting[0]
            if self._fits(work, rows):
                waiting.pop(0)
                continue
            self._shrink([lengths[row] for row in rows])
            rest = [row for batch in waiting for row in batch]
            again = token_budget_batches([lengths[row] for row in rest], self.token_budget)
            waiting = [[rest[place] for place in batch] for batch in again]

    def _fits(self, work: Callable[[list[int], bool], None], rows: list[int]) -> bool:
        try:
            work(rows, bool(self.recompute))
            return True
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Here, and not above: the error's traceback held the tensors of the failed batch.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False

    def _shrink(self, lengths: list[int]) -> None:
        if len(lengths) > 1:
            self.token_budget = len(lengths) * max(lengths) // 2
            return
        if self.recompute is False:
            self.recompute = True
            return
        tried = ", even with activations recomputed" if self.recompute else ""
        raise MemoryError(
            f"one row of {lengths[0]} tokens does not fit in memory{tried}; shorten rows ({self.shorten}), or give an "
            "actor more memory (resources.gpus_per_actor)"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a refused allocation: Python's, torch's on CPU or GPU, or that of a library of CUDA."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in REFUSALS)
