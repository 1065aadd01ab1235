"""Padded batches of examples within a token budget that is lowered when memory runs out."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

IGNORED = -100

Example = Mapping[str, Sequence[int]]
"""input_ids and labels of a conversation; the label is -100 for tokens outside answers."""


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of similar length so that a padded batch stays within a token budget.

    The longest rows come first, so that a batch too large for the machine fails at once. Batches are determined by the
    lengths.

    Args:
        lengths: Tokens of every row, each at least 1.
        budget: Maximum tokens of a batch, padding included; a longer row forms a batch by itself.

    Returns:
        Row indices by batch; every index occurs once.

    Raises:
        ValueError: The budget or a length is below 1.
    """
    if budget < 1:
        raise ValueError(f"token budget is {budget}; expected at least 1")
    for index, length in enumerate(lengths):
        if length < 1:
            raise ValueError(f"row {index} has {length} tokens; expected at least 1")
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batches and width * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
            continue
        batches.append([index])
        width = lengths[index]
    return batches


def collate(
    examples: Sequence[Example], pad_id: int = 0, device: torch.device | str | None = None
) -> dict[str, Tensor]:
    """Pad examples on the right to a batch.

    Args:
        examples: At least one {"input_ids": ..., "labels": ...}, both of the same length.
        pad_id: Token id of the padding; any id of the vocabulary works, as padding does not affect results.
        device: Of the tensors; the CPU if None.

    Returns:
        input_ids, attention_mask (1 = token) and labels (-100 on padding), int64 (rows, longest row).

    Raises:
        ValueError: There is no example, or one is empty or does not have one label per token.
    """
    if not examples:
        raise ValueError("there is no example to collate; expected at least one")
    for index, example in enumerate(examples):
        tokens, labels = len(example["input_ids"]), len(example["labels"])
        if tokens == 0 or tokens != labels:
            raise ValueError(f"example {index} has {tokens} tokens and {labels} labels; expected one label per token")
    shape = (len(examples), max(len(example["input_ids"]) for example in examples))
    batch = {
        "input_ids": torch.full(shape, pad_id, dtype=torch.int64),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "labels": torch.full(shape, IGNORED, dtype=torch.int64),
    }
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        batch["input_ids"][row, :length] = torch.as_tensor(example["input_ids"], dtype=torch.int64)
        batch["labels"][row, :length] = torch.as_tensor(example["labels"], dtype=torch.int64)
        batch["attention_mask"][row, :length] = 1
    return {name: tensor.to(device) for name, tensor in batch.items()}


ALLOCATION_ERRORS = ("DefaultCPUAllocator: can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class BatchFitter:
    """Runs work over batches; after an out-of-memory error it halves the token budget, finally recomputes activations.

    Attributes:
        token_budget: Maximum padded tokens of a batch; once lowered, it stays so for later calls of `run`.
        recompute: Whether activations are recomputed because a single row did not fit; None for forward passes, which
            keep no activations.
        shorten: Key of the study file that limits the length of rows, for error messages.
    """

    def __init__(self, token_budget: int, recompute: bool | None = False, shorten: str = "data.max_length") -> None:
        """Set the initial budget.

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
        """Create a fitter for forward passes only."""
        return cls(token_budget, recompute=None, shorten=shorten)

    def run(self, lengths: Sequence[int], work: Callable[[list[int], bool], None]) -> None:
        """Call work(rows, recompute) on batches until every row was in a successful one.

        Args:
            lengths: Tokens of every row.
            work: May run out of memory; it is then called again for the same rows.

        Raises:
            MemoryError: A single row does not fit, even with recomputed activations.
        """
        waiting = token_budget_batches(lengths, self.token_budget)
        while waiting:
            rows = waiting[0]
            if self._fits(work, rows):
                waiting.pop(0)
                continue
            self._shrink([lengths[row] for row in rows])
            rest = [row for batch in waiting for row in batch]
            regrouped = token_budget_batches([lengths[row] for row in rest], self.token_budget)
            waiting = [[rest[index] for index in batch] for batch in regrouped]

    def _fits(self, work: Callable[[list[int], bool], None], rows: list[int]) -> bool:
        try:
            work(rows, bool(self.recompute))
            return True
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Not in the except clause, as the error's traceback holds the tensors of the failed batch.
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
    """Return whether an error is a failed allocation of Python, of torch on CPU or GPU, or of a CUDA library."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATION_ERRORS)
