"""What a selection method returns: rows in pick order, and why each was picked."""

from dataclasses import dataclass

import numpy as np

from instsel.arrays import Labels
from instsel.arrays import labels as unique_labels


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of a pool in the order in which they were picked. The arrays are copies and cannot be written to.

    Attributes:
        indices: int64 (k,), row numbers in pick order, each at most once.
        scores: float64 (k,), the value each pick had when it was picked.
        driven_by: int64 (k,) or None: what drove each pick. bids, instance_max, round_robin: the validation example
            (column of the attribution as it was given, whether or not columns were dropped) whose need the pick met.
            rds, bm25: the validation row whose turn it was. less, task_max, smart, proportional and equal: the position
            of the subtask, task or group among the sorted unique labels. g2is: the component, 0 has the largest
            variance. None where nothing in particular drives a pick.

    Raises:
        ValueError: an array of the wrong rank, length or dtype, a negative or repeated index, a score that is not
            finite.
    """

    indices: np.ndarray
    scores: np.ndarray
    driven_by: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check the arrays, bring them to their dtypes and freeze them."""
        indices = _frozen("indices", self.indices, np.int64)
        if indices.size and indices.min() < 0:
            raise ValueError(f"indices must not be negative, got {indices.min()}")
        values, counts = np.unique(indices, return_counts=True)
        if values.size != indices.size:
            raise ValueError(f"indices must differ, got {values[counts > 1][0]} more than once")
        scores = _frozen("scores", self.scores, np.float64)
        if not np.isfinite(scores).all():
            raise ValueError(f"scores must be finite, got {scores[~np.isfinite(scores)][0]}")
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "scores", scores)
        _same_length("scores", scores, indices)
        if self.driven_by is not None:
            driven_by = _frozen("driven_by", self.driven_by, np.int64)
            _same_length("driven_by", driven_by, indices)
            object.__setattr__(self, "driven_by", driven_by)

    def __len__(self) -> int:
        """Return the number of rows picked."""
        return len(self.indices)

    @property
    def drivers(self) -> list[int]:
        """What drove each pick; empty where nothing did."""
        return [] if self.driven_by is None else self.driven_by.tolist()


def _frozen(name: str, values: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have rank 1, got shape {array.shape}")
    if array.size and not np.can_cast(array.dtype, dtype, casting="safe"):
        raise ValueError(f"{name} must be {np.dtype(dtype)}, got {array.dtype}")
    copy = array.astype(dtype, copy=True)
    copy.setflags(write=False)
    return copy


def _same_length(name: str, array: np.ndarray, indices: np.ndarray) -> None:
    if len(array) != len(indices):
        raise ValueError(f"{name} must have one entry for each of {len(indices)} indices, got {len(array)}")


def label_reasons(kind: str, labels: Labels, selection: Selection) -> list[str]:
    """Name the label, among the sorted unique ones, that drove each pick: "subtask algebra"."""
    names = [f"{kind} {label}" for label in unique_labels("labels", labels)[0]]
    return [names[driver] for driver in selection.drivers]
