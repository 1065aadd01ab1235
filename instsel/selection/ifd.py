"""Instruction-following difficulty: answers that the instruction helps least to predict (arXiv 2308.12032)."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from instsel import arrays
from instsel.selection.base import Method, Requires
from instsel.selection.method_data import LikelihoodData
from instsel.selection.picked import Selection

NO_RATIO = -1.0
"""Score of a row that has no ratio."""


def select(loss: ArrayLike, loss_alone: ArrayLike, budget: int) -> Selection:
    """Pick by the ratio s(A|Q) / s(A): the loss of the answer given the instruction over that of the answer alone.

    Below 1 the instruction helps, and the nearer to 1 the harder it is to follow: these rows come first, by falling
    ratio. The paper leaves out the others, where the instruction does not help; so that any budget can be filled they
    come after all of those, by rising ratio. Rows without a ratio come last: those whose `loss_alone` is 0 or NaN,
    or so small that the ratio is not finite.

    Args:
        loss: (n,) mean cross-entropy of the answer given the instruction, nats.
        loss_alone: (n,) mean cross-entropy of the same answer tokens without it, nats; NaN where it is not known.
        budget: rows wanted; above n gives all n.

    Returns:
        Selection in this order, ties to the lowest row; scores are ratios, or NO_RATIO; no `driven_by`.

    Raises:
        ValueError: wrong ranks, dtypes or lengths, a NaN in `loss`, infinity, a negative loss or budget.
    """
    conditioned = arrays.not_negative("loss", loss)
    alone = arrays.not_negative("loss_alone", loss_alone, nan=True)
    if len(alone) != len(conditioned):
        raise ValueError(f"loss_alone must have one entry for each of {len(conditioned)} losses, got {len(alone)}")
    ratio = np.full(len(alone), np.inf)
    with np.errstate(over="ignore"):
        np.divide(conditioned, alone, out=ratio, where=alone > 0)
    # The second key decides within the ones alike in the first; rows alike in both stay in their order.
    order = np.lexsort([np.where(ratio < 1, -ratio, ratio), ratio >= 1])
    order = order[: arrays.budget(budget, len(ratio))]
    return Selection(order, np.where(np.isfinite(ratio), ratio, NO_RATIO)[order])


class Ifd(Method):
    """Rows whose instruction is hard to follow, but helps."""

    requires: ClassVar[Requires] = "likelihood"
    array_function = staticmethod(select)

    method: Literal["ifd"] = Field(description="rows whose instruction helps the base model least, but does help")

    def select(self, data: LikelihoodData, budget: int, seed: int) -> Selection:
        return select(data.loss, data.loss_alone, budget)

    def reasons(self, data: LikelihoodData, selection: Selection, seed: int) -> list[str]:
        return [
            "no loss without the instruction to compare with"
            if ratio == NO_RATIO
            else f"loss with the instruction {ratio:.3f} of that without"
            for ratio in selection.scores
        ]
