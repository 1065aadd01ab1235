"""Batches of examples, padded, under a budget of tokens that is lowered where memory runs out."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

IGNORED = -100

Example = Mapping[str, Sequence[int]]
"""input_ids and labels of one conversation, -100 where a token is no answer."""


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Groups rows of like length so that a padded batch stays within a budget of tokens.

    The longest rows come first, so a batch that is too large for the machine shows at once. The same lengths give the
    same batches.

    Args:
        lengths: Tokens of every row, each at least 1.
        budget: Most tokens of a batch, padding included; a row longer than that is a batch of its own.

    Returns:
        Row indices by batch; every index once.

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
    """Pads examples on the right.

    Args:
        examples: At least one {"input_ids": ..., "labels": ...}, both of one length.
        pad_id: Token id of the padding; any id of the vocabulary will do, as nothing looks at padding.
        device: Where the tensors go; the CPU if None.

    Returns:
        input_ids, attention_mask (1 = token) and labels (-100 on padding), int64 (rows, longest row).

    Raises:
        ValueError: There is no example, or one is empty or has not one label a token.
    """
    if not examples:
        raise ValueError("there is no example to collate; expected at least one")
    for index, example in enumerate(examples):
        tokens, labels = len(example["input_ids"]), len(example["labels"])
        if tokens == 0 or tokens != labels:
            raise ValueError(f"example {index} has {tokens} tokens and {labels} labels; expected one label a token")
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
