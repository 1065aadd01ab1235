"""Selectors are timed, on the rows of the study where these are few."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from instsel.planner import selector_times
from instsel.planner.selector_times import choices, random_data, selector_seconds
from instsel.selection.cost import Shape
from instsel.selection.random import Random
from instsel.selection.registry import REGISTRY, AnyMethod


def method(name, **options):
    return TypeAdapter(AnyMethod).validate_python({"method": name, **options})


SHAPE = Shape(
    rows=50,
    chosen=20,
    columns=3,
    checkpoints=2,
    dim=8,
    embedding=4,
    hidden=5,
    tokens=12.0,
    groups={"source": [30, 20], "task": [25, 25]},
)


@pytest.mark.parametrize("name", sorted(REGISTRY.methods))
def test_every_method_is_timed_on_as_many_picks_as_it_will_make(name, monkeypatch):
    selections = []
    timed = type(method(name).timed_as())
    select = timed.timed_select

    def remember(self, data, budget, shape):
        selections.append(select(self, data, budget, shape))
        return selections[-1]

    monkeypatch.setattr(timed, "timed_select", remember)
    assert selector_seconds(method(name), SHAPE, "rows") > 0
    few = name in ("g2is", "graph_cut", "log_det")
    wanted = {"budget": 20, "all": 20, "none": 0}[method(name).picks]
    assert [len(selection) for selection in selections] == [32 if few else wanted]


@pytest.mark.parametrize("name", sorted(REGISTRY.methods))
@pytest.mark.filterwarnings("ignore:g2is found")
def test_every_method_chooses_from_random_data_and_says_why(name):
    entry = method(name)
    data = random_data(entry.requires, SHAPE)
    selection = entry.select(data, 7, 0)
    reasons = entry.reasons(data, selection, 0)
    assert (
        (0 < len(selection) or entry.picks == "none")
        and len(selection) <= 7
        and len(reasons) == len(selection)
        and all(reasons)
    )
    assert all(isinstance(number, float) for numbers in entry.details(data).values() for number in numbers.values())


def test_the_time_is_that_of_some_rows_as_often_as_the_work_is_more(monkeypatch):
    clock = iter([10.0, 12.0, 20.0, 22.0])
    monkeypatch.setattr(selector_times.time, "monotonic", lambda: next(clock))
    large = Shape(rows=20_480, chosen=2048, columns=1, embedding=2)
    assert selector_seconds(method("less"), large, "rows") == pytest.approx(2.0 * 10)
    assert selector_seconds(method("graph_cut"), large, "rows") == pytest.approx(2.0 * 10 * 2048 / 32)


def test_whitening_takes_time_of_its_own(monkeypatch):
    monkeypatch.setattr(selector_times, "seconds_to_sum", lambda dim: 1.0)
    monkeypatch.setattr(selector_times, "seconds_to_solve", lambda dim, columns: 7.0)
    assert selector_seconds(method("g2is"), replace(SHAPE, damping=0.1), "rows") == pytest.approx(
        2 * (3 * 50 + 7), rel=0.01
    )


@pytest.mark.parametrize("keys", [{"sources": ["a"]}, {"lengths_of": "bids"}, {"extra_for": "bids"}])
def test_a_narrowed_draw_is_timed_without_what_narrows_it(keys):
    assert selector_seconds(Random(method="random", **keys), SHAPE, "rows") > 0


def test_a_budget_of_tokens_is_chosen_once_or_searched():
    shape = Shape(rows=10_000, chosen=500)
    assert [choice.chosen for choice in choices(method("g2is"), shape, "rows")] == [500]
    assert [choice.chosen for choice in choices(method("bids"), shape, "tokens")] == [751]
    tried = [choice.chosen for choice in choices(method("g2is"), shape, "tokens")]
    assert tried[:3] == [5000, 2500, 1250]
    assert tried[-1] in (500, 501)
    assert len(tried) <= 14
