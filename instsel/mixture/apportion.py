"""Whole numbers from shares."""

import numpy as np
from numpy.typing import NDArray


def apportion(shares: NDArray[np.float64], total: int, room: NDArray[np.int64]) -> NDArray[np.int64]:
    """Split `total` by largest remainder, none above its room; what is over goes to the others by their shares.

    Args:
        shares: float64 (K,), at least 0, not all 0.
        total: what is split, at least 0.
        room: int64 (K,), the most that each may get.

    Returns:
        int64 (K,), sums to `total`; of equal remainders the first is served first. Places of share 0 get something only
        when all others are full.

    Raises:
        ValueError: there is not room for `total`, or it is negative.
    """
    if total < 0 or room.shape != shares.shape or (room < 0).any():
        raise ValueError(f"total is {total} and room {room.tolist()}; expected numbers of at least 0, one a share")
    if room.sum() < total:
        raise ValueError(f"there are {room.sum()} rows in all, fewer than the {total} wanted; lower the budget")
    found = np.zeros(len(shares), dtype=np.int64)
    open_places = room > 0
    while (left := total - int(found.sum())) > 0:
        wanted = np.where(open_places, shares, 0.0)
        if wanted.sum() <= 0:
            wanted = open_places.astype(np.float64)
        # Rounded: 0.3 * 10 is a hair below 3 in floats.
        quotas = np.round(left * wanted / wanted.sum(), 9)
        given = np.floor(quotas).astype(np.int64)
        order = np.argsort(-(quotas - given), kind="stable")
        given[order[: left - int(given.sum())]] += 1
        found += np.minimum(given, room - found)
        open_places = found < room
    return found
