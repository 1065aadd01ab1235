"""What the selectors take, timed on random numbers of the study's shape, in the process that will select."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from instsel.attribution.timing import seconds_to_solve, seconds_to_sum
from instsel.planner.selectors import (
    KERNEL_BYTES,
    WALK_BYTES,
    Shape,
    choices,
    function_of,
    holds_kernel,
    holds_units,
    work,
)
from instsel.selection import (
    bids,
    g2is,
    ifd,
    less,
    longest,
    methods,
    perplexity,
    random,
    rds,
    rules,
    stratified,
    submodular,
)

TIMED_ROWS = 2048
TIMED_ENTRIES = 2**24
# Of methods that look at the pool at every pick.
TIMED_PICKS = 32


def selector_seconds(method: methods.AnyMethod, shape: Shape, unit: str, damping: float | None) -> float:
    """Time of a choice: that of some rows, as many times as `planning.selectors.work` is larger.

    G2is is timed where its walks never end before their budget, so that its time is the most it can be.

    Args:
        method: as the study file has it.
        shape: what it chooses from.
        unit: of the budget.
        damping: of the influence that the method reads; None for cosines.
    """
    function = function_of(method)
    rows = min(shape.rows, TIMED_ROWS, max(64, TIMED_ENTRIES // max(1, shape.width(method))))
    picks = max(1, round(shape.chosen * rows / shape.rows))
    if isinstance(function, methods.G2isMethod | methods.GraphCutMethod | methods.LogDetMethod):
        picks = min(rows, TIMED_PICKS)
    few = replace(shape, rows=rows, chosen=picks)
    choose = _ready(function, few, shape, max(shape.pools(method)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.monotonic()
        choose()
        seconds = time.monotonic() - began
    known = seconds * sum(work(method, choice) for choice in choices(method, shape, unit)) / work(function, few)
    if isinstance(method, methods.G2isMethod) and damping is not None:
        known += _whitening_seconds(shape)
    return known


def _whitening_seconds(shape: Shape) -> float:
    """Fisher matrices and their factors, then a triangular system a row: as many products, in the wider type."""
    rows = 3 * shape.rows * seconds_to_sum(shape.dim)
    return shape.checkpoints * (rows + seconds_to_solve(shape.dim, 1))


def _ready(method: methods.AnyMethod, few: Shape, whole: Shape, pool: float) -> Callable[[], Any]:
    """A choice of `few.chosen` of `few.rows` random rows, by the way that is taken in the largest pool of the study."""
    rows, picks = few.rows, few.chosen
    values = np.random.default_rng(0).standard_normal((rows, max(1, few.width(method))), dtype=np.float32)
    if isinstance(method, methods.InfluenceMethod):
        return _by_influence(method, values, picks, whole)
    if isinstance(method, methods.RdsMethod):
        validation = np.random.default_rng(1).standard_normal((few.columns, few.hidden), dtype=np.float32)
        return lambda: rds.select(values, validation, picks)
    if isinstance(method, methods.FacilityLocationMethod):
        most = KERNEL_BYTES if holds_kernel(pool) else 0
        return lambda: submodular.facility_location(values, picks, kernel_bytes=most)
    if isinstance(method, methods.GraphCutMethod):
        return lambda: submodular.graph_cut(values, picks, lam=method.lam)
    if isinstance(method, methods.LogDetMethod):
        return lambda: submodular.log_det(values, picks)
    return _by_index(method, np.abs(values[:, 0]), picks)


def _by_influence(method: methods.InfluenceMethod, values: np.ndarray, picks: int, whole: Shape) -> Callable[[], Any]:
    if isinstance(method, methods.G2isMethod):
        # Between rows without negative entries there are no conflicts, which would end a walk.
        rows, most = np.abs(values), WALK_BYTES if holds_units(whole) else 0
        one = rows[:1].copy()
        return lambda: g2is.select(rows, one, picks, delta=0.0, neighbors=method.neighbors, memory_bytes=most)
    if isinstance(method, methods.LessMethod):
        return lambda: less.select(values, picks, subtasks=[0] * values.shape[1])
    normalize = method.normalize  # type: ignore[attr-defined]
    if isinstance(method, methods.BidsMethod):
        return lambda: bids.select(values, picks, normalize=normalize)
    rule = method.method  # type: ignore[attr-defined]
    tasks = [0] * values.shape[1] if rule == "task_max" else None
    return lambda: rules.select(values, picks, rule=rule, normalize=normalize, tasks=tasks)


def _by_index(method: methods.AnyMethod, numbers: np.ndarray, picks: int) -> Callable[[], Any]:
    if isinstance(method, methods.PerplexityMethod):
        return lambda: perplexity.select(numbers, picks)
    if isinstance(method, methods.IfdMethod):
        return lambda: ifd.select(numbers, numbers, picks)
    if isinstance(method, methods.LongestMethod):
        return lambda: longest.select(numbers, picks)
    if isinstance(method, methods.ProportionalMethod | methods.EqualMethod):
        groups = np.arange(len(numbers)) % 8
        return lambda: stratified.select(groups, picks, shares=method.method, seed=0)
    return lambda: random.select(len(numbers), picks, seed=0)
