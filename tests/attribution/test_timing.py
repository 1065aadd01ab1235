"""Attribution is timed on random numbers, and on smaller matrices than those of the study where these are large."""

import pytest

from instsel.attribution import timing
from instsel.attribution.timing import seconds_to_solve, seconds_to_sum, time_attribution


def test_a_row_is_scored_against_every_number_of_columns():
    times = time_attribution([2, 5], 16)
    assert sorted(times.score) == [2, 5]
    assert min(*times.score.values(), times.sum) > 0


def test_larger_matrices_take_as_much_more_as_they_have_work(monkeypatch):
    monkeypatch.setattr(timing, "SUMMED_DIM", 16)
    clock = iter([0.0, 1.0, 0.0, 1.0])
    monkeypatch.setattr(timing.time, "monotonic", lambda: next(clock))
    assert seconds_to_sum(64) == pytest.approx(16 / timing.SUMMED_ROWS)
    # Few columns: nearly the cube.
    assert seconds_to_solve(160, 1) == pytest.approx(1000, rel=0.2)
