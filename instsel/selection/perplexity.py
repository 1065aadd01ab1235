"""The middle by perplexity (When Less is More: Investigating Data Pruning, arXiv 2309.04564, Section 3)."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from instsel import arrays
from instsel.selection.base import Method, Requires
from instsel.selection.method_data import LikelihoodData
from instsel.selection.picked import Selection


def select(loss: ArrayLike, budget: int) -> Selection:
    """Pick the rows around the median: neither those the model knows already nor those it cannot make sense of.

    Perplexity is exp(loss), so both put the rows in one order. Rows are picked from the median of that order outward,
    so that a smaller budget gives the beginning of a larger one's picks.

    Args:
        loss: (n,) mean cross-entropy of every row, nats.
        budget: rows wanted; above n gives all n.

    Returns:
        Selection by rising distance from the middle of the order by loss (ties of it by row); of two rows at the same
        distance, one on either side, the lowest row comes first. Scores are losses; no `driven_by`.

    Raises:
        ValueError: wrong rank or dtype, NaN or infinity, a negative loss or budget.
    """
    losses = arrays.not_negative("loss", loss)
    rows = len(losses)
    distances = np.empty(rows, dtype=np.int64)
    # Twice the distance, as the middle of an even number of rows lies between two.
    distances[np.argsort(losses, kind="stable")] = np.abs(2 * np.arange(rows) - (rows - 1))
    order = np.argsort(distances, kind="stable")[: arrays.budget(budget, rows)]
    return Selection(order, losses[order])


class Perplexity(Method):
    """Rows around the median loss."""

    requires: ClassVar[Requires] = "likelihood"
    array_function = staticmethod(select)

    method: Literal["perplexity"] = Field(description="rows in the middle by the base model's loss")

    def select(self, data: LikelihoodData, budget: int, seed: int) -> Selection:
        return select(data.loss, budget)

    def reasons(self, data: LikelihoodData, selection: Selection, seed: int) -> list[str]:
        return [f"base loss {score:.3f}, in the middle" for score in selection.scores]
