"""The part of the held-out rows that a search chooses by, and the part that judges what it chose."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def searched_rows(ids: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Return which held-out rows are searched by, bool (n,): the share of smallest ids, at least one on either side.

    Args:
        ids: of the rows, hashes; two or more.
        share: of the rows.

    Raises:
        ValueError: there are fewer than two rows.
    """
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} held-out rows cannot be parted; a target that is searched by needs two or more")
    count = min(max(1, round(share * len(ids))), len(ids) - 1)
    is_searched = np.zeros(len(ids), dtype=bool)
    is_searched[np.argsort(np.asarray(ids), kind="stable")[:count]] = True
    return is_searched
