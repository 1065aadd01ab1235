import numpy as np
import pytest

from instsel.selection import Selection


def test_arrays_are_copied_converted_and_frozen() -> None:
    indices = np.array([4, 2], dtype=np.int32)
    selection = Selection(indices, np.array([1, 0.5], dtype=np.float32), np.array([0, 1]))
    indices[0] = 9
    assert selection.indices.tolist() == [4, 2]
    assert (selection.indices.dtype, selection.scores.dtype) == (np.int64, np.float64)
    assert selection.driven_by is not None
    for array in (selection.indices, selection.scores, selection.driven_by):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        selection.scores = selection.scores  # type: ignore[misc]


def test_empty_lists_make_an_empty_selection() -> None:
    selection = Selection([], [])  # type: ignore[arg-type]
    assert (len(selection), selection.indices.dtype, selection.driven_by) == (0, np.int64, None)


@pytest.mark.parametrize(
    ("indices", "scores", "driven_by", "message"),
    [
        ([[1]], [1.0], None, "rank 1"),
        ([1.5], [1.0], None, "int64"),
        ([1, 2], [1.0], None, "2 indices"),
        ([1], [1.0], [0, 1], "driven_by"),
        ([3, 1, 3], [1.0, 1.0, 1.0], None, "3 more than once"),
        ([-1], [1.0], None, "-1"),
        ([1], [np.nan], None, "nan"),
    ],
)
def test_what_does_not_fit_is_refused(indices: list, scores: list, driven_by: list | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(np.array(indices), np.array(scores), None if driven_by is None else np.array(driven_by))
