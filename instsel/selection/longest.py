"""Longest answers first, a baseline that is hard to beat (Long Is More for Alignment, arXiv 2402.04833)."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from instsel import arrays
from instsel.selection.base import Method
from instsel.selection.method_data import IndexData
from instsel.selection.picked import Selection


def select(tokens: ArrayLike, budget: int) -> Selection:
    """Pick the rows with the most answer tokens.

    Args:
        tokens: (n,) answer tokens of every row.
        budget: rows wanted; above n gives all n.

    Returns:
        Selection by falling number of tokens, which is the score; ties go to the lowest row; no `driven_by`.

    Raises:
        ValueError: wrong rank or dtype, NaN or infinity, a negative number of tokens or budget.
    """
    lengths = arrays.not_negative("tokens", tokens)
    order = np.argsort(-lengths, kind="stable")[: arrays.budget(budget, len(lengths))]
    return Selection(order, lengths[order])


class Longest(Method):
    """The longest answers."""

    array_function = staticmethod(select)

    method: Literal["longest"] = Field(description="rows with the most answer tokens")

    def select(self, data: IndexData, budget: int, seed: int) -> Selection:
        return select(data.answer_tokens, budget)

    def reasons(self, data: IndexData, selection: Selection, seed: int) -> list[str]:
        return [f"{score:.0f} answer tokens" for score in selection.scores]
