"""How the work and the memory of the selectors grow."""

import inspect
import math
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from instsel.io.matrix import MAPPED_BYTES
from instsel.selection import g2is
from instsel.selection.cost import COSTED, INDEX_ROW_BYTES, MIB, PassTokens, Shape, selection_cost
from instsel.selection.registry import AnyMethod
from instsel.selection.submodular import KERNEL_BYTES, facility_location

SHAPE = Shape(
    rows=10_000,
    chosen=500,
    columns=300,
    checkpoints=4,
    dim=1000,
    embedding=384,
    hidden=576,
    tokens=100.0,
    groups={"source": [6000, 4000], "task": [2500] * 4},
)
IDS = 10_000 * INDEX_ROW_BYTES


def method(name, **options):
    return TypeAdapter(AnyMethod).validate_python({"method": name, **options})


def test_the_bounds_of_the_selectors_are_those_that_are_planned_with():
    assert inspect.signature(facility_location).parameters["kernel_bytes"].default == KERNEL_BYTES
    assert inspect.signature(g2is.select).parameters["memory_bytes"].default == g2is.WALK_BYTES


@pytest.mark.parametrize(
    ("name", "growth"),
    [
        ("random", 10),
        ("ifd", 10),
        ("less", 10),
        ("bids", 10),
        ("round_robin", 10),
        ("rds", 10),
        ("bm25", 10),
        ("g2is", 100),
        ("graph_cut", 100),
        ("log_det", 100),
        ("facility_location", 100 * (1 + math.log(5000)) / (1 + math.log(500))),
    ],
)
def test_ten_times_the_rows_and_picks_are_so_much_more_work(name, growth):
    larger = Shape(100_000, 5000, groups={"source": [60_000, 40_000]})
    assert method(name).cost(larger).work == pytest.approx(growth * method(name).cost(SHAPE).work)


def test_smart_works_as_its_function_within_each_group():
    assert method("smart").timed_as() == method("facility_location")
    whole = 6000**2 * (1 + math.log(300)) + 4000**2 * (1 + math.log(200))
    assert method("smart").work(SHAPE) == pytest.approx(whole)
    assert method("smart", by="task").work(SHAPE) == pytest.approx(4 * 2500**2 * (1 + math.log(125)))
    by_cut = method("smart", instance_function="graph_cut")
    assert by_cut.work(SHAPE) == pytest.approx(6000 * 300 + 4000 * 200)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("random", 0),
        ("perplexity", 0),
        ("less", 10_000 * 300 * 4 + 3 * 10_000 * 300 * 8),
        ("bids", 10_000 * 300 * 4 + 20 * 256 * 300 + 128 * MIB),
        ("round_robin", 10_000 * 300 * 4 + 20 * 256 * 300 + 128 * MIB),
        ("bm25", 10_000 * 300 * 4 + 20 * 256 * 300 + 128 * MIB + 2 * 10_000 * 300 * 8),
        ("rds", 10_000 * 576 * 4 + 24 * 300 * 500 + 12 * 10_000 * 876),
        ("g2is", 2 * 10_000 * 4000 * 4),
        ("graph_cut", 10_000 * 384 * (4 + 8)),
        ("log_det", 10_000 * 384 * (4 + 8) + 8 * 384**2),
        ("facility_location", 10_000 * 384 * (4 + 8) + 4 * 10_000**2),
        ("smart", 10_000 * 384 * 4 + 6000 * 384 * 8 + 4 * 6000**2),
    ],
)
def test_a_method_holds_ids_what_it_reads_and_working_memory(name, extra):
    cost = method(name).cost(SHAPE)
    assert (cost.memory, cost.scratch) == (IDS + extra, 0)


def test_bm25_holds_the_words_of_the_pool_while_it_scores():
    long = replace(SHAPE, tokens=1000.0)
    assert method("bm25").working_memory(long) == 10_000 * (72 + 40 * 1000)


def test_whitening_holds_the_factors():
    small = Shape(10, 1, checkpoints=2, dim=1000)
    assert method("g2is").cost(replace(small, damping=0.1)).memory - method("g2is").cost(small).memory == pytest.approx(
        (2 * 8 + 32) * 1000**2, rel=0.01
    )


def test_what_is_larger_than_the_bounds_is_on_disk_or_computed_again():
    large = Shape(270_679, 13_533, columns=2000, checkpoints=4, dim=8192, embedding=384)
    ids = 270_679 * INDEX_ROW_BYTES
    gradients = 270_679 * 4 * 8192 * 4
    assert gradients > g2is.WALK_BYTES
    assert method("g2is").cost(large).scratch == gradients
    assert method("g2is").cost(large).memory == ids + 96 * MIB
    influence = 270_679 * 2000 * 4
    assert influence > MAPPED_BYTES
    assert method("less").cost(large).scratch == influence
    assert method("less").cost(large).memory == ids + 96 * MIB
    # No kernel.
    assert method("facility_location").cost(large).memory == ids + 270_679 * 384 * (4 + 8)


def test_what_a_selection_costs_in_tokens_of_training():
    tokens = PassTokens(pool=1000, answers=400, validation=50, warmup=200, checkpoints=3)
    # A gradient costs what a step costs, a forward pass half of it.
    gradients = {"warmup": 200, "features": 3 * 1050}
    assert selection_cost("influence", tokens) == selection_cost("gradients", tokens) == gradients
    assert selection_cost("hidden_states", tokens) == {"hidden_states": 525}
    assert selection_cost("likelihood", tokens) == {"likelihood": 700}
    for name in ("index", "prompts", "embeddings"):
        assert name not in COSTED
        with pytest.raises(ValueError, match=f"a selection by {name} takes no pass of the model that is trained"):
            selection_cost(name, tokens)
    assert all(selection_cost(name, tokens) for name in COSTED)
