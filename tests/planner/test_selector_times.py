"""Selectors are timed, on the rows of the study where these are few."""

import pytest
from pydantic import TypeAdapter

from instsel.planner import selector_times as plan_selectors
from instsel.planner.selector_times import selector_seconds
from instsel.planner.selectors import Shape
from instsel.selection.methods import Method


def method(name, **options):
    return TypeAdapter(Method).validate_python({"method": name, **options})


SHAPE = Shape(
    rows=50,
    chosen=20,
    columns=3,
    checkpoints=2,
    dim=8,
    embedding=4,
    hidden=5,
    groups={"source": [30, 20], "task": [25, 25]},
)
NAMES = ["random", "equal", "longest", "perplexity", "ifd", "rds", "less", "bids", "instance_max", "task_max", "sum"]
WALKS = ["g2is", "smart", "facility_location", "graph_cut", "log_det"]


@pytest.mark.parametrize("name", [*NAMES, *WALKS])
def test_every_method_is_timed_on_as_many_picks_as_it_will_make(name, monkeypatch):
    found = []
    ready = plan_selectors._ready

    def remember(*arguments):
        choose = ready(*arguments)
        return lambda: found.append(choose())

    monkeypatch.setattr(plan_selectors, "_ready", remember)
    assert selector_seconds(method(name), SHAPE, "rows", None) > 0
    few = name in ("g2is", "graph_cut", "log_det")
    assert [len(selection) for selection in found] == [32 if few else 20]


def test_the_time_is_that_of_some_rows_as_often_as_the_work_is_more(monkeypatch):
    clock = iter([10.0, 12.0, 20.0, 22.0])
    monkeypatch.setattr(plan_selectors.time, "monotonic", lambda: next(clock))
    large = Shape(rows=20_480, chosen=2048, columns=1, embedding=2)
    assert selector_seconds(method("less"), large, "rows", None) == pytest.approx(2.0 * 10)
    assert selector_seconds(method("graph_cut"), large, "rows", None) == pytest.approx(2.0 * 10 * 2048 / 32)


def test_whitening_takes_time_of_its_own(monkeypatch):
    monkeypatch.setattr(plan_selectors, "seconds_to_sum", lambda dim: 1.0)
    monkeypatch.setattr(plan_selectors, "seconds_to_solve", lambda dim, columns: 7.0)
    assert selector_seconds(method("g2is"), SHAPE, "rows", 0.1) == pytest.approx(2 * (3 * 50 + 7), rel=0.01)
