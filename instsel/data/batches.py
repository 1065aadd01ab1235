"""Batches of like length under a token budget, and their padding."""

from collections.abc import Mapping, Sequence

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
