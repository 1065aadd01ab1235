"""The share of each level of a curriculum over the steps of a training."""

from typing import Any

import numpy as np

from instsel.mixture.dependency import LEVELS
from instsel.report.facts.record import Record
from instsel.training.order import ORDER

MOST_WINDOWS = 40
LEAST_ROWS = 8


def orders(record: Record) -> dict[str, Any]:
    """Shares of the levels along each training that has an order of its own.

    Returns:
        run -> `rows` at the end of each window, of equal sizes, and `shares`, level -> share of the window's rows.
    """
    found = {}
    for name in record.results("finetune"):
        folder = record.folder / "finetune" / name
        if folder.exists(ORDER):
            found[name] = _shares(folder.read_table(ORDER, ["level"])["level"].to_numpy())
    return found


def _shares(levels: np.ndarray) -> dict[str, Any]:
    windows = np.array_split(levels, min(MOST_WINDOWS, max(1, len(levels) // LEAST_ROWS)))
    return {
        "rows": np.cumsum([len(part) for part in windows]).tolist(),
        "shares": {level: [float((part == number).mean()) for part in windows] for number, level in enumerate(LEVELS)},
    }
